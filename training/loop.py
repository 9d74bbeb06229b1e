"""The training loop: steps, and what happens every so many of them."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from streampetr_core.checkpoint import checkpoint_metadata
from streampetr_core.console import progress
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import Memory
from training import checkpointing
from training.average import WeightAverage
from training.config import RunConfig
from training.distributed import Processes
from training.network import build_network, prepare_network
from training.optimizer import make_optimizer, set_rates
from training.prefetch import StepBatches, StepSource
from training.run_log import RunLog, Stopwatch, peak_memory, sentence
from training.schedule import base_rate, rate_factor
from training.step import TrainingStep, finite_or_none, tokens_of

_TIMED_EVERY = 10


class TrainingError(StreamPETRError):
    """A training that makes no sense to go on with."""


class Trainer:
    """A run: network, optimiser, memory and position, and how they move.

    Args:
        config: of the run.
        source: endless steps.
        steps: length of the run.
        processes: this one among those of the run.
        say: for lines on the screen, in the first process.

    Attributes:
        step: steps done.
        losses: of the last step, by name, on the device.
        gradient: L2 norm before clipping, of the last step.
        skipped: steps whose gradients were not finite; without those that only found fp16's scale too large.
    """

    def __init__(
        self,
        config: RunConfig,
        source: StepSource,
        steps: int,
        processes: Processes,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.source, self.steps, self.processes = config, source, steps, processes
        self.say = say if processes.first else lambda text: None
        self.device = processes.device
        train = config.train
        torch.manual_seed(train.seed)
        network, notes = build_network(config.variant, config.network)
        for note in notes:
            self.say(note)
        self.network = prepare_network(network, config.network, train, self.device, processes.count)
        slots = range(processes.rank * train.batch, (processes.rank + 1) * train.batch)
        self.total = train.batch * processes.count
        self.slots = slots
        self.module: nn.Module = TrainingStep(self.network, config, slots)
        if processes.count > 1:
            # buffers are constants, or statistics that SyncBN keeps equal
            self.module = DistributedDataParallel(self.module, broadcast_buffers=False)
        rate = base_rate(config.optimizer, self.total)
        self.optimizer = make_optimizer(self.network, config.optimizer, rate)
        self.learning = [p for p in self.network.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=train.precision_on(self.device.type) == "fp16"
        )
        self.average = WeightAverage(self.network, config.network.average) if config.network.average else None
        self.memory: Memory | None = None
        self.step = self.skipped = self.in_a_row = 0
        self.best = -math.inf
        self.losses: dict[str, Tensor] = {}
        self.gradient = 0.0
        self.watch = Stopwatch(self.device)
        self._interrupted = 0
        torch.manual_seed(train.seed + 1 + processes.rank)  # dropout differs between processes

    def advance(self, batches: StepBatches) -> bool:
        """One step; False where it was skipped because its gradients are not finite.

        Raises:
            TrainingError: at such a step where the configuration says so, or after too many in a row.
        """
        set_rates(self.optimizer, rate_factor(self.step, self.steps, self.config.optimizer))
        batches = tuple(batch.to(self.device) for batch in batches)
        self.watch.mark("data")
        self.losses, memory = self.module(batches, self.memory, self.step, self.watch.mark)
        total = torch.stack(list(self.losses.values())).sum()
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.learning, self.config.optimizer.clip or math.inf)
        self.watch.mark("backward")
        self.gradient = float(norm)
        done = math.isfinite(self.gradient)  # gradients are those of all processes, so all agree
        if done:
            self.scaler.step(self.optimizer)
            self.in_a_row = 0
            if self.average is not None:
                self.average.update(self.network)
        else:
            self._refused(batches, bool(torch.isfinite(total)))
            memory = finite_or_none(memory)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.memory = memory if self.config.train.playing().carries_memory else None
        self.step += 1
        self.watch.mark("update")
        return done

    def run(self) -> None:
        """To the last step, or to Ctrl-C: either way a checkpoint is saved.

        Raises:
            KeyboardInterrupt, SystemExit: after saving, as the signal asked.
        """
        out = self.config.out
        log = RunLog(out) if self.processes.first else None
        steps = contextlib.closing(iter(self.source))  # type: ignore[type-var]  # generators, which end their threads
        # waiting for the device at every stage takes time itself; on the CPU there is nothing to wait for
        timed = 1 if self.device.type == "cpu" else min(_TIMED_EVERY, self.config.train.log_every)
        with self._signals(), steps as batches, contextlib.closing(_Interval(self, log)) as interval:
            remaining = range(self.step, self.steps)
            for _ in progress(remaining, "training", len(remaining)) if self.processes.first else remaining:
                self.watch.start(self.step % timed == 0)
                done = self.advance(next(batches))
                interval.add(done)
                if self.step % self.config.train.log_every == 0 or self.step == self.steps:
                    interval.report()
                stopped = self.processes.any(self._interrupted > 0)
                if self.step % self.config.checkpoint.every == 0 or self.step == self.steps or stopped:
                    self.save()
                if stopped:
                    self.say(f"stopped after step {self.step}, saved; go on with --resume")
                    raise KeyboardInterrupt if self._interrupted != signal.SIGTERM else SystemExit(143)
                every = self.config.evaluate.every
                if every and (self.step % every == 0 or self.step == self.steps):
                    self.evaluate(log)

    def evaluate(self, log: RunLog | None) -> None:
        """Official scores by the first process; the best weights so far are exported as best.safetensors."""
        if self.processes.first:
            from training.scoring import score

            out, kind = self.config.out, self.config.evaluate
            scores, picture = score(
                self.exportable(), self.config, out / "evaluations" / f"step_{self.step:08d}", self.device
            )
            self.say(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
            if log is not None:
                log.write(self.step, "score", scores)
                log.picture(self.step, "picture", picture)
            if scores["NDS"] > self.best:
                self.best = scores["NDS"]
                self.export(out / "best.safetensors", {"scores": scores, "split": kind.split})
        self.processes.wait()

    def save(self) -> None:
        """A checkpoint, and the weights as latest.safetensors; every process must call."""
        processes = self.processes
        memories = processes.gather(checkpointing.on_cpu(self.memory))
        random = processes.gather(checkpointing.random_state(self.device))
        if processes.first:
            state = {
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "source": self.source.state_dict(),
                "memory": checkpointing.memory_state(memories),
                "random": random,
                "skipped": self.skipped,
                "in_a_row": self.in_a_row,
            }
            checkpointing.write(self.config.out, state, self.config.checkpoint.keep)
            self.export(self.config.out / "latest.safetensors", {})
        processes.wait()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; with another number of processes, but as many slots, too.

        Raises:
            SamplerError: where it is a position in other data, mode, seed or batch.
            ResumeError: where its weights are another network's.
        """
        self.source.load_state_dict(state["source"])
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise checkpointing.ResumeError(
                f"the checkpoint in {self.config.out} is of another network or other learning parts ({reason}); "
                "resume with the configuration in its config.json"
            ) from error
        rate = base_rate(self.config.optimizer, self.total)  # torch has put back the old rates
        fresh = make_optimizer(self.network, self.config.optimizer, rate)
        for group, new in zip(self.optimizer.param_groups, fresh.param_groups, strict=True):
            group |= {key: new[key] for key in ("base_rate", "weight_decay", "betas")}
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.memory = checkpointing.memory_of(state["memory"], self.slots, self.device)
        if len(state["random"]) == self.processes.count:
            checkpointing.set_random_state(state["random"][self.processes.rank], self.device)
        self.step, self.skipped, self.in_a_row = state["step"], state["skipped"], state["in_a_row"]
        self.best = _best(self.config.out)

    def exportable(self) -> Any:
        """A plain network with the present weights, averaged where they are."""
        return checkpointing.exportable(self.config.variant, self.network.state_dict(), self.average)

    def export(self, path: Path, facts: dict[str, Any]) -> None:
        """The weights for `Detector.from_checkpoint`, with the step and the seed beside them."""
        facts = {"step": str(self.step), "seed": str(self.config.train.seed), **facts}
        checkpointing.export(self.exportable(), path, self.config.checkpoint.half, facts)

    def _refused(self, batches: StepBatches, own_finite: bool) -> None:
        """Count a step that cannot be taken, and say whose fault it is."""
        finite = not self.processes.any(not own_finite)
        if finite and self.scaler.is_enabled() and self.scaler.get_scale() >= 2:
            return  # fp16's scale is being found
        self.skipped += 1
        self.in_a_row += 1
        bad = [name for name, loss in self.losses.items() if not math.isfinite(float(loss.detach()))]
        where = f"losses {', '.join(bad[:4])}" if bad else "gradients"
        text = f"step {self.step}: {where} not finite; frames {tokens_of(batches)}"
        if not own_finite or finite:  # said by the process that has these frames
            print(text, flush=True)
            if self.processes.first:
                line = {"step": self.step, "kind": "not finite", "what": where, "frames": tokens_of(batches)}
                with (self.config.out / "not_finite.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        if self.config.train.non_finite == "stop":
            raise TrainingError(f"{text}; look at these frames, or go on with --train.non-finite skip")
        if self.in_a_row >= self.config.train.max_skipped:
            raise TrainingError(
                f"{text}; {self.in_a_row} steps in a row: lower optimizer.rate, use --train.precision float32, or "
                "resume from an earlier checkpoint"
            )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step at hand; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = number

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _best(out: Path) -> float:
    """NDS of the best weights so far."""
    scores = checkpoint_metadata(out / "best.safetensors").get("scores")
    return float(json.loads(scores)["NDS"]) if scores else -math.inf


class _Interval:
    """The steps between two lines of the log."""

    def __init__(self, trainer: Trainer, log: RunLog | None) -> None:
        self.trainer, self.log = trainer, log
        self._begin()

    def _begin(self) -> None:
        self.sums: Tensor | None = None
        self.done, self.count, self.since = 0, 0, time.perf_counter()

    def add(self, done: bool) -> None:
        """One more step."""
        self.count += 1
        if done:
            self.done += 1
            values = torch.stack([loss.detach() for loss in self.trainer.losses.values()])
            self.sums = values if self.sums is None else self.sums + values

    def report(self) -> None:
        """Mean losses over all processes, rates and speed; every process must call."""
        trainer = self.trainer
        seconds = time.perf_counter() - self.since
        values = torch.stack([loss.detach() for loss in trainer.losses.values()])
        values = trainer.processes.mean(values * 0 if self.sums is None else self.sums / self.done).tolist()
        named = dict(zip(trainer.losses, values, strict=True))
        numbers: dict[str, Any] = {
            "loss": sum(values),
            "gradient": trainer.gradient,
            "rate": max(group["lr"] for group in trainer.optimizer.param_groups),
            "samples_per_s": self.count * trainer.total / max(seconds, 1e-9),
            "memory_gib": peak_memory(trainer.device),
            "skipped": trainer.skipped,
            **{f"share_{stage}": share for stage, share in trainer.watch.shares().items()},
        }
        if self.log is not None:
            self.log.write(trainer.step, "train", numbers | {"losses": named})
        trainer.say(sentence(trainer.step, trainer.steps, numbers))
        self._begin()

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()
