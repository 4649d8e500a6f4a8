"""Checkpoints of an unfinished run: atomic folders with checksums, and the state in them.

checkpoints/step-00000120/
    adapter.safetensors   trained weights
    state.pt              position, optimizer, master weights, random states of every process
    SHA256SUMS            checksums of both, as `sha256sum -c SHA256SUMS` reads them

A folder gets its final name when all its files are on the disk. The last two intact checkpoints are
kept, in case one is damaged. A finished run keeps one, with only the last weights and the position.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from rellm_cache.errors import RunError
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import WEIGHTS, load_tensors, save_tensors
from rellm_cache.training.distributed import broadcast_from_main, gather_stacked
from rellm_cache.training.micro_batches import MicroBatcher
from rellm_cache.training.optim import Optimizer
from rellm_cache.utils.atomic_files import replace_folder
from rellm_cache.utils.checksums import SUMS, find_damage, sums_text
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import random_state, set_random_state
from rellm_cache.utils.disk_errors import disk_errors
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.state_files import save_state
from rellm_cache.utils.sync import make_folder
from rellm_cache.utils.tensor_files import load_torch

STATE, PARTIAL, KEPT = "state.pt", ".partial", 2


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        step: optimizer steps taken.
        epoch: current epoch, from 0.
        best: best validation score so far, higher is better; None before the first.
        seconds: training time so far.
        epochs_since_best: validated epochs after the best one.
        stopped: why training was stopped before its last step, or "".
        best_sha256: digest of the best weights' file, or "" in checkpoints of older versions.
        metrics_sha256: digest of the metrics up to this step, or "" in those of older versions.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    seconds: float = 0.0
    epochs_since_best: int = 0
    stopped: str = ""
    best_sha256: str = ""
    metrics_sha256: str = ""


class CheckpointFolders:
    """Checkpoint folders of one run: writes them atomically, checks them and finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._intact: list[Path] = []  # oldest first

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after a number of steps."""
        return self.folder / f"step-{step:08d}"

    def find_newest(self) -> tuple[int, list[str]]:
        """Step of the newest intact checkpoint, 0 if there is none, and notes on damaged ones."""
        damaged: list[str] = []
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            damage = checkpoint_damage(path)
            if not damage:
                self._intact = [path]
                step = int(path.name.removeprefix("step-"))
                return step, [f"{text}; training continues from {path}" for text in damaged]
            damaged.append(f"{path}: the checkpoint is damaged and skipped: {damage}")
        return 0, [f"{text}; none is intact, training starts again" for text in damaged]

    def save(self, step: int, write: Callable[[Path], None], kept: int = KEPT) -> Path:
        """Write a step's checkpoint atomically with `write`; keep only the newest `kept`."""
        target = self.path(step)
        partial = self.folder / PARTIAL
        try:
            with disk_errors(target, "earlier checkpoints are kept"):
                shutil.rmtree(partial, ignore_errors=True)
                make_folder(partial)
                write(partial)
                digests = {file.name: file_digest(file) for file in partial.iterdir()}
                (partial / SUMS).write_text(sums_text(digests), "utf-8")
                # An existing folder is damaged, or was saved at this step before the epoch ended.
                replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._intact = [*(p for p in self._intact if p != target), target][-kept:]
        for path in self.folder.glob("*step-*"):
            if path not in self._intact:
                shutil.rmtree(path)
        return target


@dataclass(frozen=True)
class TrainingState:
    """The parts of a run that the next step depends on, besides data, position and random state."""

    model: SpeechLLM
    optimizer: Optimizer
    micro_batcher: MicroBatcher


class CheckpointManager:
    """Saves and restores the checkpoints of one run, at regular time intervals in an epoch.

    All processes call each method together, except `save_final`; the main process writes.
    """

    def __init__(
        self, folder: Path, state: TrainingState, accelerator: Accelerator, minutes: float
    ) -> None:
        self._folders = CheckpointFolders(folder)
        self._state = state
        self._accelerator = accelerator
        self._minutes = minutes
        self._saved_at = time.monotonic()
        self.is_final = False  # whether the run was restored as finished

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint, by the main process's clock."""
        due = time.monotonic() - self._saved_at > 60 * self._minutes
        return bool(broadcast_from_main(self._accelerator, due))

    def save(self, position: Position) -> None:
        """Write a checkpoint."""
        limit = self._state.micro_batcher.state()
        own = {**random_state(self._accelerator.device), "budget": limit}
        processes = gather_stacked(self._accelerator, own)
        if self._accelerator.is_main_process:
            optimizer = self._state.optimizer.state_dict()
            self._write(position, optimisation=optimizer, processes=processes)
        self._saved_at = time.monotonic()

    def save_final(self, position: Position) -> None:
        """Keep only the last weights and the position of a finished run.

        Does nothing if the run was restored as finished. Only the main process calls it.
        """
        if not self.is_final:
            self._write(position, kept=1)

    def restore(self) -> Position:
        """Load the newest intact checkpoint; return its position, or the start if there is none.

        A finished run loads weights and position only. `RunError` for another run's checkpoint.
        """
        main = self._accelerator.is_main_process
        step, notes = self._folders.find_newest() if main else (0, [])
        for note in notes:
            say(f"Note: {note}")
        step = broadcast_from_main(self._accelerator, step)
        if not step:
            return Position()
        path = self._folders.path(step)
        load_tensors(path / WEIGHTS, self._state.model)
        saved = _read_state(path)
        try:
            position = Position(**saved["position"])
            self.is_final = saved.keys() == {"position"}
            if not self.is_final:
                self._state.optimizer.load_state_dict(saved["optimisation"])
                self._restore_process(saved["processes"], path)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise _cannot_continue(path, error) from error
        return position

    def _restore_process(self, processes: dict[str, Tensor], path: Path) -> None:
        """Load the random state and micro-batch limit of this process, if they were saved."""
        rank, saved = self._accelerator.process_index, len(processes["budget"])
        if rank < saved:
            own = {name: stacked[rank] for name, stacked in processes.items()}
            self._state.micro_batcher.load_state(own.pop("budget"))
            set_random_state(own, self._accelerator.device)
        if self._accelerator.is_main_process and saved != self._accelerator.num_processes:
            say(
                f"Note: {path} is from {saved} processes and this run has "
                f"{self._accelerator.num_processes}: dropout differs from here on"
            )

    def _write(self, position: Position, kept: int = KEPT, **state: Any) -> None:
        def write(folder: Path) -> None:
            save_tensors(folder / WEIGHTS, self._state.model)
            save_state(folder / STATE, {"position": vars(position), **state})

        self._folders.save(position.step, write, kept)


REMOVE = "remove it, and training continues from an earlier checkpoint or starts again"


def final_position(folder: Path) -> Position | None:
    """Where a finished run ended, by its intact checkpoint; None if there is none."""
    step, _ = (folders := CheckpointFolders(folder)).find_newest()
    saved = _read_state(folders.path(step)) if step else {}
    return Position(**saved["position"]) if saved.keys() == {"position"} else None


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return load_torch(checkpoint / STATE, RunError, REMOVE)


def _cannot_continue(checkpoint: Path, error: Exception) -> RunError:
    return RunError(
        f"{checkpoint}: training cannot continue from it ({type(error).__name__}: {error}); "
        f"{REMOVE}"
    )


def checkpoint_damage(checkpoint: Path) -> str:
    """Describe the damaged files of a checkpoint; empty if all match their checksums."""
    try:
        found = find_damage(checkpoint)
    except RunError as error:
        return str(error)
    return "; ".join(f"{name}: {problem}" for name, problem in found.items())
