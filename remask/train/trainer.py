"""The bridge to Hugging Face's Trainer: their loop, sharding and state; our questions, counts, clock and safe saving.

What is overridden and why: batches come from `Loader` (a pure function of the step); the loss is a sum over global
counts, not a mean over labels; the learning rate follows `Budget`, which may be a clock; checkpoints are staged,
checked and renamed; weights and tokenizer are written as an ordinary Hugging Face directory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from remask.core.errors import BadCheckpoint, Diverged
from remask.train import checkpoint, optimizer
from remask.train.budget import Budget
from remask.train.hooks import Average
from remask.train.learner import Learner, scaled
from remask.train.loader import Loader, Part
from remask.train.settings import Training

FOREVER = 10**9  # steps of a run whose budget is a clock


class _Questions:
    """An iterable without a length, as Trainer wants it for step-counted training."""

    def __init__(self, loader: Loader, budget: Budget):
        self.loader, self.budget = loader, budget

    def __iter__(self) -> Iterator[Part]:
        return self.loader.forever(lambda: self.budget.step)


PARTLY = ("turn", "check_length")
"""Marks of objectives whose steps may leave some parameters without a gradient: one net's turn, a slot nobody saw."""


def bfloat16_here(device: torch.device) -> bool:
    """Whether bfloat16 products are fast on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and bool(probe is not None and probe())


def arguments(settings: Training, run: Path, unused: bool = False) -> TrainingArguments:
    """Trainer's arguments for our settings; its own logging, evaluation and progress bar are off.

    unused: some steps leave some parameters without a gradient.
    """
    cpu = not torch.cuda.is_available()
    bf16 = bfloat16_here(torch.device("cpu" if cpu else "cuda")) if settings.bf16 is None else settings.bf16
    made = TrainingArguments(
        output_dir=str(run / checkpoint.STAGING),
        max_steps=FOREVER if settings.steps is None else settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        max_grad_norm=settings.clip,
        seed=settings.seed % 2**32,
        use_cpu=cpu,
        bf16=bf16,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        ignore_data_skip=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=unused,
    )
    _ = made.device  # sets the number of GPUs, of which one process uses one: several want torchrun
    made._n_gpu = min(made._n_gpu, 1)
    return made


class MaskedTrainer(Trainer):
    """Trainer over a Learner.

    run: the run's directory; facts: what goes into `remask.json` beside step, tokens and seconds.
    """

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        budget: Budget,
        settings: Training,
        run: Path,
        tokenizer: Any,
        facts: dict[str, Any],
        fresh: bool,
        heard: Callable[[float], None],
        average: Average | None,
        callbacks: list[TrainerCallback],
    ):
        self.loader, self.budget, self.settings, self.run = loader, budget, settings, run
        self.tokenizer, self.facts, self.fresh, self.heard, self.average = tokenizer, facts, fresh, heard, average
        super().__init__(
            model=learner,
            args=arguments(
                settings, run, unused=any(hasattr(learner.objective, name) for name in ("turn", "check_length"))
            ),
            compute_loss_func=scaled,  # tells Trainer that the loss is already scaled for accumulation
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # remask has its own progress line

    def get_train_dataloader(self) -> Any:
        """Endless parts, from the step that the budget stands at."""
        self.loader.rank, self.loader.ranks = self.args.process_index, self.args.world_size
        return _Questions(self.loader, self.budget)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Muon and AdamW, or AdamW."""
        if self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = optimizer.build(self.model, self.settings, self.fresh)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate as a function of the budget's progress, which may be a clock."""
        del num_training_steps
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _factor(self, step: int) -> float:
        # the scheduler counts finished steps, and sets the rate of the next one
        by_steps = None if self.settings.steps is None else (step + 1) / self.settings.steps
        return optimizer.rate_factor(self.settings, self.budget.progress if by_steps is None else by_steps)

    def _prepare_inputs(self, inputs: Any) -> Any:
        device = self.args.device
        question = type(inputs.question)(*(x.to(device) if isinstance(x, Tensor) else x for x in inputs.question))
        stream = type(inputs.stream)(inputs.stream.seeds.to(device))
        return Part(question, stream, inputs.counts.to(device))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
        """Sum over the global counts; Diverged when it is not finite."""
        del rest
        output = model(inputs.question, inputs.stream)
        loss = scaled(output, inputs.counts, self.args.world_size)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss became {float(loss.detach())} at step {self.state.global_step + 1}: lower --learning-rate "
                f"(or --rest-learning-rate, or --clip) and go on from the last good checkpoint with --resume."
            )
        self.heard(float(loss.detach()))
        return (loss, output) if return_outputs else loss

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run / checkpoint.STAGING)

    def record(self) -> dict[str, Any]:
        """The facts of this moment."""
        step = self.budget.step
        tokens = round(step * self.loader.tokens_per_step)
        spent = {"step": step, "tokens": tokens, "seconds": round(self.budget.seconds, 3)}
        return {**self.facts, **spent, "processes": self.args.world_size}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        if not self.args.should_save:  # one of several processes writes
            return
        if any(not torch.isfinite(p).all() for p in self.model.parameters()):
            raise Diverged(
                f"the weights are not finite at step {self.state.global_step}: lower --learning-rate and go on from "
                "the last good checkpoint with --resume."
            )
        checkpoint.write_net(output_dir, self.model.net, self.tokenizer, self.record(), training=True)
        if self.average is not None:
            self.average.save(Path(output_dir))

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        step = self.state.global_step
        staging = self.run / checkpoint.STAGING
        staged = staging / f"checkpoint-{step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # or this would take away what a faster process writes
        try:
            with checkpoint.saving(self.run):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # every process has written its part
                if self.args.should_save:
                    (self.run / "checkpoints").mkdir(exist_ok=True)
                    checkpoint.commit(staged, self.run / "checkpoints" / f"checkpoint-{step}")
                    checkpoint.prune(self.run)
        finally:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)

    def restore(self, found: Path) -> None:
        """Take the weights, their average and the clock of a checkpoint."""
        self.model.net.restore(found)
        facts = json.loads((found / checkpoint.FACTS).read_text(encoding="utf-8"))
        self.budget.restore(facts["seconds"], facts["step"])
        if self.average is not None:
            self.average.load(found)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        self.restore(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        rates = list(self.lr_scheduler.base_lrs)
        with _reading(checkpoint):
            if self.args.device.type == "cpu":  # with several processes transformers 5.17 asks torch for "cpu:0"
                for part, name in ((self.optimizer, "optimizer.pt"), (self.lr_scheduler, "scheduler.pt")):
                    part.load_state_dict(torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)
        self.lr_scheduler.base_lrs = rates  # what was typed now counts: more steps, or a lower peak
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * self._factor(self.lr_scheduler.last_epoch)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def _reading(path: str | None) -> Iterator[None]:
    """Around the reading of training state, which is never allowed to run code."""
    try:
        yield
    except (UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(
            f"{path} cannot be resumed from ({reason}): delete it to go on from the one before, or type --overwrite."
        ) from error
