"""Training loop: optimizer steps, validation after each epoch, metrics, checkpoints.

The losses of a step are averaged over all micro-batches and processes (`loss_average`); gradients
are summed. A step that runs out of memory is repeated with smaller micro-batches.
"""

import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.data.streams import StreamSet, frame_statistics
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.unpacked_weights import unpacked_weights
from rellm_cache.model.losses.emotion import class_weights
from rellm_cache.model.losses.loss_terms import LossTerms
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.folder import CHECKPOINTS
from rellm_cache.runs.weights import WEIGHTS, load_tensors, read_tensors, save_tensors
from rellm_cache.training.callbacks import Callback, EpochReport, StepReport, reason_to_stop
from rellm_cache.training.ccc_prepass import Prepass, ccc_prepass
from rellm_cache.training.checkpoints import CheckpointManager, Position, TrainingState
from rellm_cache.training.distributed import broadcast_from_main, sum_by_name
from rellm_cache.training.least_squares import fit_heads
from rellm_cache.training.loss_average import LossAverage
from rellm_cache.training.micro_batches import (
    FIRST_TOKENS,
    ActivationMeter,
    MicroBatcher,
    example_tokens,
)
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.precision import training_autocast, validation_autocast
from rellm_cache.training.trackers import NO_TRACKER, RunTracker
from rellm_cache.training.validation import Copy, is_better, selection_score, validation_scores
from rellm_cache.utils.atomic_files import rename, write_file, write_lines
from rellm_cache.utils.checksums import is_intact, recorded, require_intact
from rellm_cache.utils.console import Tick, counted, progress, say
from rellm_cache.utils.devices import is_out_of_memory, random_state, set_random_state
from rellm_cache.utils.disk_errors import disk_errors
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import append_row, read_journal
from rellm_cache.utils.sync import sync_path

METRICS, BEST = "metrics.jsonl", "best.safetensors"
NEXT = "next-best.safetensors"  # becomes BEST when the checkpoint of its epoch is saved
VALIDATION_TIMEOUT = timedelta(hours=12)  # other processes wait while the main one validates


@dataclass(frozen=True)
class TrainingData:
    """Examples of both splits and their frames.

    Attributes:
        copies: of validation clips at other speeds (`heads.speed_copies`).
        groups: of training clips: the speaker of each, or its audio file.
    """

    train: list[Example]
    validation: list[Example]
    streams: StreamSet
    copies: list[Copy] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


class Trainer:
    """Trainer of one run: model, data, optimizer and output files."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        out: Path,
        llm: FrozenLLM | None,
        accelerator: Accelerator,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        config = recipe.training
        self.callbacks = callbacks
        self.accelerator, self.device = accelerator, accelerator.device
        self.recipe, self.data, self.out = recipe, data, out
        self.tracker = RunTracker(accelerator, recipe, out)
        set_seed(recipe.seed)
        self.model = _initial_model(recipe, data, llm).to(self.device)
        if accelerator.process_index:  # same weights in all processes, different dropout
            own = np.random.SeedSequence((recipe.seed, accelerator.process_index))
            torch.manual_seed(int(own.generate_state(1)[0]))
        self.loader = BatchLoader(data.train, data.streams, self.device)
        batches = math.ceil(len(data.train) / config.batch_size)
        self.steps_per_epoch = math.ceil(batches / config.gradient_accumulation)
        if config.solver == "least_squares":
            self.steps_per_epoch = 1
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimizer = Optimizer(self.model, config, self.total_steps)
        self.micro_batcher = self._make_micro_batcher()
        self._drawn: tuple[int, list[list[list[int]]]] = (-1, [])
        self.metrics = out / METRICS
        self.checkpoints = CheckpointManager(
            out / CHECKPOINTS,
            TrainingState(self.model, self.optimizer, self.micro_batcher),
            accelerator,
            config.checkpoint_minutes,
        )

    def _make_micro_batcher(self) -> MicroBatcher:
        config, llm, examples = self.recipe.training, self.recipe.llm, self.data.train
        if config.micro_batch_tokens:
            costs = example_tokens(self.model, examples, self.loader.lengths)
        else:
            costs = dict.fromkeys((example.id for example in examples), 1)
        return MicroBatcher(config, llm.pack_length if llm else FIRST_TOKENS, costs)

    def restore(self) -> Position:
        """Load the newest intact checkpoint, and delete the metrics of later steps."""
        position = self.checkpoints.restore()
        if self.accelerator.is_main_process:
            found = list(read_metrics(self.out))
            kept = [row for row in found if 0 < position.step >= row["step"]]
            expected = position.metrics_sha256
            if expected and expected != self._metrics_digest(len(kept)):
                say(
                    f"Note: {self.metrics}: was changed or damaged after the checkpoint was "
                    "written; restore it, or do not rely on its numbers"
                )
            if kept != found or not self.metrics.exists():
                write_lines(self.metrics, kept)
            if not self.checkpoints.is_final:
                position = self._restore_best(position, kept)
        return position

    def _restore_best(self, position: Position, rows: list[dict[str, Any]]) -> Position:
        """Finish or undo the last replacement of the best weights; say so if they are lost."""
        folder = self.out / CHECKPOINTS
        if (folder / NEXT).is_file():
            if file_digest(folder / NEXT) == position.best_sha256:
                rename(folder / NEXT, folder / BEST)
            else:  # of an epoch that is trained again
                (folder / NEXT).unlink()
        damage = "" if position.best is None else self._best_damage(position)
        if not damage:
            return position
        over = self._is_finished(position)
        say(
            f"Note: {folder / BEST}: {damage}: the weights of epoch "
            f"{position.epoch - position.epochs_since_best}, the best so far, are lost; "
            f"{'those of the last epoch are' if over else 'the best of the next epochs is'} kept"
        )
        if not over:
            return dataclasses.replace(position, best=None, best_sha256="")
        with self.optimizer.averaged_weights():
            save_tensors(folder / BEST, self.model)
        scores = next(r["validation"] for r in reversed(rows) if "validation" in r)
        metric, digest = self.recipe.training.best_metric, file_digest(folder / BEST)
        best = selection_score(metric, scores, position.epoch - 1)
        return dataclasses.replace(position, best=best, best_sha256=digest, epochs_since_best=0)

    def _best_damage(self, position: Position) -> str:
        """What is wrong with the file of the best weights; empty if nothing is."""
        path = self.out / CHECKPOINTS / BEST
        if not path.is_file():
            return "is missing"
        if position.best_sha256:
            same = file_digest(path) == position.best_sha256
            return "" if same else "found other bytes than the checkpoint says"
        try:
            read_tensors(path)
        except RunError as error:
            return str(error)
        return ""

    def unpacked_llm(self) -> AbstractContextManager[None]:
        """On a CPU, the LLM's 4-bit weights are unpacked in the block, as while it trains."""
        return unpacked_weights(self.model.llm) if self.model.llm else nullcontext()

    def run(self, position: Position) -> Position:
        """Train from a position to the end, or until training is stopped."""
        with self.tracker, self.unpacked_llm():
            position = self._run(position)
        self.accelerator.end_training()
        return position

    def _run(self, position: Position) -> Position:
        if position.step == 0:
            scores, metric = self.validate(), self.recipe.training.best_metric
            if scores and not math.isfinite(selection_score(metric, scores, 0)):
                raise RunError(
                    f"{self.out}: training.best_metric = {metric!r} is not a finite number before "
                    f"the first step: found {scores}; look for NaN in the LLM, the frames, or the "
                    "weights that training starts from"
                )
            self._record({"epoch": 0, "step": 0, "validation": scores})
        elif not self._is_finished(position) and self.accelerator.is_main_process:
            say(f"Continuing at step {position.step} of {self.total_steps}")
        started = time.monotonic() - position.seconds
        with progress("Training", self.total_steps, "steps") as tick:
            tick(position.step)
            while not self._is_finished(position):
                position = self._train_epoch(position, tick, started)
                position = self._end_epoch(position)
        return position

    def _is_finished(self, position: Position) -> bool:
        return bool(position.stopped) or position.epoch == self.recipe.training.epochs

    def _train_epoch(self, position: Position, tick: Tick, started: float) -> Position:
        """Take the remaining steps of an epoch, or fewer if a callback stops training."""
        if self.recipe.training.solver == "least_squares":
            return self._fit(position, tick, started)
        self.model.train()
        with closing(self._steps(position)) as steps:
            for batches, waited in steps:
                begun = time.monotonic()
                terms, norm = self.step(batches, position.step)
                report = StepReport(
                    step=position.step + 1,
                    steps=self.total_steps,
                    epoch=position.epoch + 1,
                    loss=float(terms.total(self.model.loss_weights)),
                    losses=terms.means(),
                    learning_rate=self.optimizer.learning_rate(position.step),
                    gradient_norm=norm,
                    seconds=time.monotonic() - begun,
                    waited=waited,
                )
                self._record(_metrics_row(report))
                position = dataclasses.replace(
                    position,
                    step=position.step + 1,
                    step_in_epoch=position.step_in_epoch + 1,
                    seconds=time.monotonic() - started,
                )
                tick(1, f"epoch {report.epoch}, loss {report.loss:.3f}")
                if stopped := self._reason_to_stop(report):
                    return dataclasses.replace(position, stopped=stopped)
                if position.step_in_epoch < self.steps_per_epoch and self.checkpoints.is_due():
                    self._save(position)
        return position

    def _fit(self, position: Position, tick: Tick, started: float) -> Position:
        """Fit the heads in closed form: the one step of such a run."""
        begun = time.monotonic()
        losses = fit_heads(self.model, self.data.train, self.data.groups, self.loader)
        report = StepReport(
            step=1,
            steps=1,
            epoch=1,
            loss=sum(self.model.loss_weights[name] * value for name, value in losses.items()),
            losses=losses,
            learning_rate=0.0,
            gradient_norm=0.0,
            seconds=time.monotonic() - begun,
            waited=0.0,
        )
        self._record(_metrics_row(report))
        tick(1, f"loss {report.loss:.3f}")
        seconds = time.monotonic() - started
        self._reason_to_stop(report)
        return dataclasses.replace(position, step=1, step_in_epoch=1, seconds=seconds)

    def _reason_to_stop(self, report: StepReport | EpochReport, own: str = "") -> str:
        """Why training stops after a step or an epoch, or "": the same decision in all processes.

        Args:
            own: a reason besides the callbacks', which only the main process needs to know.
        """
        if self.accelerator.is_main_process:
            asked = reason_to_stop(self.callbacks, report)
            own = own or asked
        stops = broadcast_from_main(self.accelerator, bool(own))
        return (own or "the main process stopped") if stops else ""

    def _steps(self, position: Position) -> Generator[tuple[list[Batch], float]]:
        """Yield the micro-batches of each remaining step of an epoch, and the seconds of waiting.

        The loader restarts after a step that changed the micro-batch limit.
        """
        at, dropout = position.step_in_epoch, self.recipe.qa.metadata_dropout
        while at < self.steps_per_epoch:
            limit = self.micro_batcher.limit
            with closing(
                self.loader.groups(self.groups(position.epoch)[at:], reuse_memory=True)
            ) as groups:
                while at < self.steps_per_epoch and limit == self.micro_batcher.limit:
                    begun = time.monotonic()
                    batches = [
                        batch.with_metadata(dropout, self.recipe.seed, position.epoch)
                        for batch in next(groups)
                    ]
                    at += 1
                    yield batches, time.monotonic() - begun

    def groups(self, epoch: int) -> list[list[list[int]]]:
        """This process's micro-batches of every step of an epoch, as indices of examples.

        The clips of a step are distributed to the processes one by one, longest first. Each process
        then splits its clips into micro-batches. With `averaging = "micro_batch"` whole draws are
        distributed, and a micro-batch has clips of one draw.
        """
        lengths, split = self.loader.lengths, self.micro_batcher.split
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        groups = []
        for draws in self._draws(epoch):
            if self.recipe.training.averaging == "step":
                clips = sorted(chain.from_iterable(draws), key=lambda i: (-lengths[i], i))
                draws = [clips[rank::world]]
            else:
                draws = draws[rank::world]
            groups.append([part for draw in draws for part in split(draw, self.data.train)])
        return groups

    def _draws(self, epoch: int) -> list[list[list[int]]]:
        """The draws of `batch_size` clips of every step of an epoch, as indices of examples."""
        if self._drawn[0] != epoch:
            config, lengths = self.recipe.training, self.loader.lengths
            batches = bucketed_batches(
                lengths, config.batch_size, self.recipe.seed, epoch, config.bucket_window
            )
            steps = range(0, len(batches), config.gradient_accumulation)
            self._drawn = epoch, [batches[i : i + config.gradient_accumulation] for i in steps]
        return self._drawn[1]

    def step(self, batches: Sequence[Batch], number: int) -> tuple[LossTerms, float]:
        """Take optimizer step `number`, from 0, with the micro-batches of this process, if any.

        Returns:
            Loss terms over all processes, and the gradient norm before clipping.

        Raises:
            RunError: the gradient is not finite, or a single clip does not fit into memory.
        """
        own = [batch.to(self.device) for batch in batches]
        draws = None
        if self.recipe.training.averaging == "micro_batch":
            epoch, place = divmod(number, self.steps_per_epoch)
            drawn = self._draws(epoch)[place]
            draws = [[self.data.train[i].id for i in indices] for indices in drawn]
        average = LossAverage(self.model, own, self.accelerator, draws)
        sums, cost, used_bytes = self._backward_until_it_fits(own, average)
        if self.accelerator.num_processes > 1:
            self.optimizer.gradients.sum_over_processes(self.accelerator)
            sums = sum_by_name(self.accelerator, sums)
        norm = self.optimizer.step(number)
        if self.micro_batcher.is_measuring:
            self.micro_batcher.update_limit(cost, used_bytes, self.device)
        return LossTerms.of(sums, average.counts), norm

    def _backward_until_it_fits(
        self, batches: Sequence[Batch], average: LossAverage
    ) -> tuple[dict[str, torch.Tensor], int, int]:
        """Run `_backward` on all micro-batches; halve them each time they run out of memory."""
        state = random_state(self.device)
        prepass: Prepass | None = None
        while True:
            try:
                if prepass is None:
                    autocast = training_autocast(self.recipe.training, self.device)
                    prepass = ccc_prepass(self.model, batches, self.accelerator, autocast)
                return self._backward(batches, average, prepass)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # After the `except` block the error is freed, with the activations in its traceback.
            self.optimizer.gradients.clear()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(state, self.device)
            batches = self._halve(batches)
            if self.accelerator.num_processes == 1:
                prepass = None
            elif prepass is not None:  # other processes are past it: keep moments only
                prepass = dataclasses.replace(prepass, random_states=())

    def _backward(
        self, batches: Sequence[Batch], average: LossAverage, prepass: Prepass
    ) -> tuple[dict[str, torch.Tensor], int, int]:
        """Forward and backward pass of each micro-batch.

        Returns:
            Loss sums; cost and used bytes of the largest micro-batch, or 0 if not measured.
        """
        sums = LossTerms.zeros(self.model.losses, self.device).sums
        autocast = training_autocast(self.recipe.training, self.device)
        measuring = self.micro_batcher.is_measuring
        largest = used_bytes = 0
        for index, batch in enumerate(batches):
            prepass.restore_random_state(index, self.device)
            meter = ActivationMeter(self.device, self.model.parameters()) if measuring else None
            with autocast, meter.forward() if meter else nullcontext():
                terms = self.model(batch, prepass.moments).terms
            terms.total(self.model.loss_weights, average.divisors(batch)).backward()
            own = average.weigh(batch, terms.sums)
            sums = {name: sums[name] + value.detach() for name, value in own.items()}
            cost = self.micro_batcher.cost(batch)
            if meter and cost > largest:
                largest, used_bytes = cost, meter.used_bytes()
        return sums, largest, used_bytes

    def _halve(self, batches: Sequence[Batch]) -> list[Batch]:
        """Cut every micro-batch in two, and lower the limit for later steps."""
        largest = max(batches, key=self.micro_batcher.cost)
        size = max(len(batch.ids) for batch in batches)
        if size == 1:
            raise RunError(
                f"{largest.ids[0]}: out of memory though trained alone; lower llm.pack_length, "
                'quantize the LLM (llm.quantization = "nf4") or leave out clips as long as this'
            )
        self.micro_batcher.halve_limit(self.micro_batcher.cost(largest))
        say(
            f"Out of memory with {size} clips at once: continuing with half, the same step and "
            "result; a lower training.batch_size with more gradient_accumulation avoids it"
        )
        halves = []
        for batch in batches:
            middle = (len(batch.ids) + 1) // 2
            parts = (slice(0, middle), slice(middle, len(batch.ids)))
            halves += [batch.part(clips) for clips in parts if clips.start < clips.stop]
        return halves

    def _end_epoch(self, position: Position) -> Position:
        config, epoch = self.recipe.training, position.epoch + 1
        with self.optimizer.averaged_weights():
            scores = self.validate()
            self._record({"epoch": epoch, "step": position.step, "validation": scores})
            value = selection_score(config.best_metric, scores, position.epoch)
            is_best = is_better(value, position.best)
            replaces = is_best and self.accelerator.is_main_process
            best_sha256 = position.best_sha256
            if replaces:
                save_tensors(self.out / CHECKPOINTS / NEXT, self.model)
                best_sha256 = file_digest(self.out / CHECKPOINTS / NEXT)
        since_best = 0 if is_best else position.epochs_since_best + 1
        stopped = position.stopped
        if 0 < config.early_stopping <= since_best:
            stopped = f"no better {config.best_metric} for {counted(since_best, 'epoch')}"
        report = EpochReport(
            epoch, config.epochs, position.step, scores, is_best, since_best, position.seconds
        )
        stopped = self._reason_to_stop(report, stopped)
        position = dataclasses.replace(
            position,
            epoch=epoch,
            step_in_epoch=0,
            best=value if is_best else position.best,
            epochs_since_best=since_best,
            stopped=stopped if position.step < self.total_steps else "",
            best_sha256=best_sha256,
        )
        self._save(position)
        if replaces:
            rename(self.out / CHECKPOINTS / NEXT, self.out / CHECKPOINTS / BEST)
        return position

    def validate(self) -> dict[str, float]:
        """Losses, UA and CCC on the validation split, in the main process; empty in others."""
        if not self.data.validation or not self.accelerator.is_main_process:
            return {}
        data = self.data
        with validation_autocast(self.recipe.training, self.device):
            return validation_scores(
                self.model, data.validation, data.streams, self.device, data.copies
            )

    def copy_best_weights(self, end: Position) -> None:
        """Put the best weights into the run folder, unless a finished run has them intact.

        Only the main process calls it. Raises `RunError` if they are lost, or no epoch is the best.
        """
        best, metric = self.out / CHECKPOINTS / BEST, self.recipe.training.best_metric
        if self.checkpoints.is_final and is_intact(self.out / WEIGHTS):
            return
        if end.best is None:
            raise RunError(
                f"{self.out}: no epoch has a finite {metric} on the validation split, so none is "
                "the best; lower training.learning_rate and choose another --out"
            )
        if damage := self._best_damage(end):
            raise RunError(
                f"{best}: {damage}, and {WEIGHTS} of the finished run is missing or damaged too: "
                "the trained weights are lost; train again with another --out"
            )
        if self.checkpoints.is_final:
            say(f"Note: {self.out / WEIGHTS}: was missing or damaged, restored from {best}")
        with recorded(self.out, WEIGHTS):
            write_file(self.out / WEIGHTS, partial(shutil.copyfile, best))

    def _save(self, position: Position) -> None:
        """Write a checkpoint, after its metrics are on the disk."""
        if self.accelerator.is_main_process:
            with disk_errors(self.metrics, "earlier checkpoints are kept"):
                sync_path(self.metrics)
                digest = self._metrics_digest()
            position = dataclasses.replace(position, metrics_sha256=digest)
        self.checkpoints.save(position)

    def _metrics_digest(self, rows: int | None = None) -> str:
        """SHA-256 (hex) of the first rows of the metrics, or of all; "" without the file."""
        if not self.metrics.exists():
            return ""
        with self.metrics.open("rb") as file:
            return hashlib.sha256(b"".join(islice(file, rows))).hexdigest()

    def _record(self, row: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        append_row(self.metrics, row)
        self.tracker.log(row)


def _initial_model(recipe: Recipe, data: TrainingData, llm: FrozenLLM | None) -> SpeechLLM:
    config = recipe.training
    model = SpeechLLM(recipe, data.streams.sizes, llm)
    if config.init_from:
        load_tensors(Path(config.init_from) / WEIGHTS, model, config.init_parts, fresh_lora=True)
    untrained = [
        n for n in recipe.heads.freeze if not config.init_from or n not in config.init_parts
    ]
    if untrained:
        raise ConfigError(
            f"heads.freeze = {list(recipe.heads.freeze)}: the head {untrained[0]!r} would stay "
            "random; set training.init_from to a run with that head (`rellm import blsp` makes "
            f"one), and have {untrained[0]!r} in training.init_parts"
        )
    if model.adapter.needs_statistics and not (config.init_from and "adapter" in config.init_parts):
        ids = [example.id for example in data.train]
        with torch.no_grad():
            statistics = frame_statistics(data.streams, ids, model.layer_mix.mix_values)
        model.adapter.start_from(*statistics)
    model.class_weights = class_weights(recipe.losses, data.train, len(recipe.heads.emotions))
    return model


def _metrics_row(report: StepReport) -> dict[str, Any]:
    """Row of metrics.jsonl for a step."""
    row = dataclasses.asdict(report)
    del row["steps"]
    losses = {f"{name}_loss": value for name, value in row.pop("losses").items()}
    first = {name: row.pop(name) for name in ("step", "epoch", "loss")}
    return {**first, **losses, **row}


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, each with a step and numbers by name.

    Raises `RunError` if it differs from its checksum, or a row is something else.
    """
    path, fix = run / METRICS, "restore it, or remove it: it only records how training went"
    require_intact(path, fix)
    for number, row in enumerate(read_journal(path), 1):
        step, validation = row.get("step"), row.get("validation", {})
        values = [*row.values(), *(validation.values() if isinstance(validation, dict) else "x")]
        numbers = (v for v in values if v is not validation and v is not None)
        if type(step) is not int or not all(isinstance(v, int | float) for v in numbers):
            raise RunError(
                f"{path}:{number}: found {row!r:.80}, expected a step and numbers; {fix}"
            )
        yield row


def make_accelerator(out: Path, tracker: str = NO_TRACKER) -> Accelerator:
    """Set up accelerate for a run: launched devices and processes, and the recipe's tracker.

    Mixed precision is off here: one process may train several recipes, one after another.
    """
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        log_with=None if tracker == NO_TRACKER else tracker,
        project_dir=str(out),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=VALIDATION_TIMEOUT)],
    )
