"""One fine-tuning run: rows, batches of like length, Hugging Face's Trainer, the best weights by valid.

Shapes: R rows, C classes (1 when regressing), B batch, L longest row of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from remask.core.errors import Diverged
from remask.core.metric import Estimate
from remask.data.dna import ambiguous
from remask.data.labelled import Labelled
from remask.data.order import Order
from remask.data.tokenizers import word_width
from remask.train import finetune_optimizer
from remask.train.finetuning import FineTuning
from remask.train.hooks import Watch
from remask.train.trainer import bfloat16_here

NEAR = 50  # batches that are sorted by length together: little padding, and still nearly random batches
WEIGHED = 64  # rows of a batch when weighing


class Rows(NamedTuple):
    """Encoded texts: one record of ids (and their types) each, targets [R] (int64 classes or float32), rows cut."""

    records: list[dict[str, list[int]]]
    targets: Tensor
    truncated: int


def encode(tokenizer: Any, labelled: Labelled, targets: Tensor) -> Rows:
    """Token ids as a pipeline of the saved tokenizer makes them (with truncation=True), cut to its `model_max_length`.

    Raises BadData for letters of a sequence that are no nucleotides.
    """
    if word_width(tokenizer) is not None:
        ambiguous([*labelled.texts, *(labelled.pairs or [])], labelled.name)
    found = tokenizer(labelled.texts, labelled.pairs, truncation=True, max_length=tokenizer.model_max_length)
    names = list(found.keys())
    records = [dict(zip(names, values)) for values in zip(*(found[name] for name in names))]
    return Rows(records, targets, sum(bool(record.overflowing) for record in found.encodings))


def batches(lengths: Sequence[int], batch: int, epochs: int, seed: int) -> list[list[int]]:
    """Row numbers of every step: each epoch all rows once, rows of like length together."""
    order, found = Order(len(lengths), seed), []
    for epoch in range(epochs):
        rows = order.take(epoch * len(lengths), len(lengths)).tolist()
        pools = [rows[at : at + NEAR * batch] for at in range(0, len(rows), NEAR * batch)]
        near = [sorted(pool, key=lambda row: lengths[row]) for pool in pools]
        cut = [pool[at : at + batch] for pool in near for at in range(0, len(pool), batch)]
        found += [cut[at] for at in Order(len(cut), seed).take(epoch * len(cut), len(cut)).tolist()]
    return found


def collate(tokenizer: Any, rows: Rows, at: Sequence[int]) -> dict[str, Tensor]:
    """A padded batch [B, L] with its `labels` [B]."""
    padded = tokenizer.pad([rows.records[i] for i in at], return_tensors="pt")
    return {**padded, "labels": rows.targets[list(at)]}


@torch.no_grad()
def predict(model: Any, tokenizer: Any, rows: Rows) -> Tensor:
    """The model's logits [R, C], float32 on the CPU; the model is left in the mode it was in."""
    device, mode = next(model.parameters()).device, model.training
    model.eval()
    order = sorted(range(len(rows.records)), key=lambda i: len(rows.records[i]["input_ids"]))
    logits = []
    for at in range(0, len(order), WEIGHED):
        batch = collate(tokenizer, rows, order[at : at + WEIGHED])
        batch.pop("labels")
        logits.append(model(**{name: x.to(device) for name, x in batch.items()}).logits.float().cpu())
    model.train(mode)
    return torch.cat(logits)[torch.tensor(order).argsort()]


class Best(NamedTuple):
    """The best moment of a run.

    key: what made it best, larger is better; state: weights on the CPU; logits: [R, C] on valid.
    """

    key: tuple[float, ...]
    step: int
    state: dict[str, Tensor]
    logits: Tensor
    curve: list[dict[str, float]]


class _Keeper(TrainerCallback):
    """Weighs valid on schedule, keeps the best weights in memory, tells who watches."""

    def __init__(self, steps: int, evaluations: int, look: Callable[[], tuple[Tensor, tuple[float, ...], Estimate]]):
        self.steps, self.look = steps, look
        self.due = {max(1, round(k * steps / evaluations)) for k in range(1, evaluations + 1)}
        self.best: Best | None = None
        self.curve: list[dict[str, float]] = []
        self.estimate: Estimate | None = None
        self.watch: Watch = lambda line: None
        self.heard: list[tuple[float, int]] = []
        self.began = time.monotonic()
        self.tokens = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """After every step."""
        step = state.global_step
        if step in self.due:
            self._weigh(step, rest["model"])
        loss, tokens = self.heard[-1]
        self.tokens += tokens
        seconds = time.monotonic() - self.began
        self.watch(
            {
                "step": step,
                "progress": step / self.steps,
                "loss": loss,
                "bound": self.estimate,
                "tokens_per_second": self.tokens / seconds if seconds > 0 else None,
                "left": seconds / step * (self.steps - step),
            }
        )

    def _weigh(self, step: int, model: Any) -> None:
        logits, key, self.estimate = self.look()
        loss = sum(value for value, _ in self.heard) / len(self.heard)
        self.heard = self.heard[-1:]
        self.curve.append({"step": step, "train_loss": loss, self.estimate.unit: self.estimate.value})
        if self.best is None or key > self.best.key:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best = Best(key, step, weights, logits, self.curve)


class _Trainer(Trainer):
    """Trainer over ready batches, with our loss: cross-entropy of the classes, or squared error of the number."""

    def __init__(self, keeper: _Keeper, loader: Any, regress: bool, bf16: bool, **rest: Any):
        self.keeper, self.loader, self.regress, self.bf16 = keeper, loader, regress, bf16
        super().__init__(compute_loss_func=lambda *_, **__: None, callbacks=[keeper], **rest)
        self.remove_callback(PrinterCallback)  # remask has its own progress line

    def get_train_dataloader(self) -> Any:
        """Every batch of every epoch, in order."""
        return self.loader

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
        """Mean over the rows of a batch; Diverged when it is not finite."""
        del rest
        labels = inputs.pop("labels")
        # not Trainer's own bf16, which would leave the model in autocast when it is weighed and kept
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.bf16):
            logits = model(**inputs).logits.float()
        functional = torch.nn.functional
        loss = functional.mse_loss(logits[:, 0], labels) if self.regress else functional.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss became {float(loss.detach())} at step {self.state.global_step + 1}: type a lower "
                "--learning-rate; nothing was written."
            )
        self.keeper.heard.append((float(loss.detach()), int(inputs["attention_mask"].sum())))
        return (loss, logits) if return_outputs else loss


def arguments(settings: FineTuning, steps: int, seed: int, scratch: str) -> TrainingArguments:
    """Trainer's arguments; its own logging, saving, evaluation and progress bar are off."""
    return TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=settings.batch,
        max_grad_norm=settings.clip,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rate_factor(step: int, steps: int, warm: int) -> float:
    """Share of the peak rate at a step (from 0): up over the first `warm`, then down; no step has rate 0."""
    return min((step + 1) / max(warm, 1), (steps - step) / max(steps - warm, 1))


def train(
    model: Any,
    tokenizer: Any,
    rows: Rows,
    settings: FineTuning,
    rate: float,
    seed: int,
    look: Callable[[], tuple[Tensor, tuple[float, ...], Estimate]],
    scratch: str,
    watch: Watch,
) -> Best:
    """Train a classifier in place and return its best moment.

    rate: peak learning rate of the head; look: weighs the model now: logits on valid, a key (larger is better), and
    what a progress line shows. Raises Diverged.
    """
    plan = batches([len(r["input_ids"]) for r in rows.records], settings.batch, settings.epochs, seed)
    keeper = _Keeper(len(plan), settings.evaluations or settings.epochs, look)
    keeper.watch = watch
    optimizer = finetune_optimizer.build(model, rate, settings.decay, settings.weight_decay)
    schedule = partial(rate_factor, steps=len(plan), warm=round(settings.warmup * len(plan)))
    loader: Any = torch.utils.data.DataLoader(
        range(len(rows.records)),  # type: ignore[arg-type]
        batch_sampler=plan,
        collate_fn=lambda at: collate(tokenizer, rows, at),
    )
    trainer = _Trainer(
        keeper,
        loader,
        rows.targets.dtype != torch.int64,
        bfloat16_here(_device()) if settings.bf16 is None else settings.bf16,
        model=model,
        args=arguments(settings, len(plan), seed, scratch),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)),
    )
    trainer.train()
    assert keeper.best is not None
    return keeper.best
