"""Hooks on the training loop: the clock, the curve, the progress line, safe interruption, averaged weights."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from remask.core.metric import Estimate
from remask.nets.directional import directional_configs
from remask.train.budget import Budget
from remask.train.history import History
from remask.train.settings import Training

AVERAGE = "average.safetensors"
HEADLINES = ("bits_per_byte", "bleu", "detection_auc", "replace_mlm_nats", "all_tokens_mlm_nats")  # what a line shows
LOSSES = 10  # steps whose losses make one point of the curve
Watch = Callable[[dict[str, Any]], None]


class Average(TrainerCallback):
    """An exponential moving average of the weights, with the warm-up min(decay, (1 + n) / (10 + n))."""

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay = net, decay
        self.shadow = {n: p.detach().clone() for n, p in net.named_parameters()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Follow the weights to their device."""
        self.shadow = {n: self.shadow[n].to(p.device) for n, p in self.net.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Move a little towards the newest weights."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                self.shadow[name].lerp_(parameter, 1 - decay)

    def swap(self) -> None:
        """Exchange the weights and their average; a second call undoes it."""
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                held = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(held)

    def save(self, directory: Path) -> None:
        """Write the average beside the weights."""
        save_file({n: t.contiguous() for n, t in self.shadow.items()}, directory / AVERAGE)

    def load(self, directory: Path) -> None:
        """Read it back."""
        self.shadow = load_file(directory / AVERAGE)


class Turn(TrainerCallback):
    """Tells an objective that has stages how far training is, before every step."""

    def __init__(self, turn: Callable[[Any, float], None], net: nn.Module, budget: Budget):
        self.turn, self.net, self.budget = turn, net, budget

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Turn, if it is time."""
        self.turn(self.net, self.budget.progress)


class Opening(TrainerCallback):
    """Lets directional heads become ordinary ones while progress goes from `since` to `until`, before every step.

    The line begins where each net's heads stand when this is made. They never shut again, whatever --resume makes of
    the budget. A step sees them as they will be at its end, so the last one trains what is published.
    """

    def __init__(self, net: nn.Module, budget: Budget, since: float, until: float):
        self.budget, self.since, self.until = budget, since, until
        self.begun = [(config, config.opened) for config in directional_configs(net)]
        self.floor = 0.0

    def share(self, progress: float) -> float:
        """The share of the way that is gone, 0 to 1: a straight line."""
        if progress >= self.until:
            return 1.0
        return max(0.0, (progress - self.since) / (self.until - self.since))

    def turn(self, progress: float) -> None:
        """Open the heads as far as they should be."""
        for config, begin in self.begun:
            config.opened = max(self.floor, begin + (1 - begin) * self.share(progress))

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Turn."""
        self.turn(self.budget.progress_after)


class Clock(TrainerCallback):
    """Keeps the budget, takes the held-out bound on schedule, asks for checkpoints, and tells who watches.

    evaluate: () -> estimates of held-out text; watch: called after every step with what a progress line shows.
    """

    def __init__(
        self,
        budget: Budget,
        settings: Training,
        history: History,
        evaluate: Callable[[], dict[str, Estimate]],
        watch: Watch,
        tokens_per_step: float,
    ):
        self.budget, self.settings, self.history = budget, settings, history
        self.evaluate, self.watch, self.tokens_per_step = evaluate, watch, tokens_per_step
        self._losses: list[float] = []
        self._parts = 0.0
        self.bound: Estimate | None = None
        self.interrupted = False
        self._rate_since = (0.0, 0)
        self._saved_at = 0.0
        self._evaluated = 0
        self._handler: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Start the clock; from here on Ctrl-C means: finish the step, save, stop."""
        self._saved_at = self.budget.seconds
        self._rate_since = (self.budget.seconds, self.budget.step)
        self._evaluated = int(self.budget.progress * self.settings.evaluations)
        try:
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # not the main thread: whoever started it handles Ctrl-C
            self._handler = None
        self.budget.start()

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """After every optimizer step."""
        self.budget.step = state.global_step
        self._losses.append(self._parts)
        self._parts = 0.0
        due = int(self.budget.progress * self.settings.evaluations)
        if due > self._evaluated and not self.budget.spent:
            self._evaluated = due
            self._take_bound(state)
        self.watch(self.line())
        if len(self._losses) == LOSSES:
            self.flush(args.device)
        if _anywhere(self.interrupted, args.device) or self.budget.spent:
            control.should_training_stop = True
        every = self.settings.save_steps
        if every is not None:
            control.should_save = state.global_step % every == 0
        elif _anywhere(self.budget.seconds - self._saved_at >= 60 * self.settings.save_minutes, args.device):
            control.should_save = True
            self._saved_at = self.budget.seconds
        control.should_save = control.should_save or control.should_training_stop

    def part(self, loss: float) -> None:
        """The loss of one forward pass; the parts of a step add up."""
        self._parts += loss

    def flush(self, device: torch.device) -> None:
        """Write the mean of the losses gathered, over all processes."""
        if self._losses:
            step = self.budget.step
            mean = _over_processes(sum(self._losses) / len(self._losses), device)
            self.history.add(step=step, tokens=step * self.tokens_per_step, seconds=self.budget.seconds, loss=mean)
            self._losses.clear()

    def _take_bound(self, state: Any) -> None:
        self.budget.pause()
        metrics = self.evaluate()
        self.bound = next((metrics[name] for name in HEADLINES if name in metrics), next(iter(metrics.values())))
        self.history.bound(state.global_step, state.global_step * self.tokens_per_step, self.budget.seconds, metrics)
        self.budget.start()

    def line(self) -> dict[str, Any]:
        """What a progress line shows."""
        seconds, steps = self.budget.seconds - self._rate_since[0], self.budget.step - self._rate_since[1]
        return {
            "step": self.budget.step,
            "progress": self.budget.progress,
            "loss": self._losses[-1] if self._losses else None,
            "bound": self.bound,
            "tokens_per_second": steps * self.tokens_per_step / seconds if seconds > 0 else None,
            "left": self.budget.left,
        }

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Stop the clock and give Ctrl-C back."""
        self.budget.pause()
        self.flush(args.device)
        self.release()

    def release(self) -> None:
        """Give Ctrl-C back; when training ends in an error nobody else does."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


def _anywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process: clocks and Ctrl-C differ, and all must save at one step or none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, op=torch.distributed.ReduceOp.MAX)
    return bool(raised)


def _over_processes(value: float, device: torch.device) -> float:
    """The mean of a number over all processes of a run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return float(total) / torch.distributed.get_world_size()
