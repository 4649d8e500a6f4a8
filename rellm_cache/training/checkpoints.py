"""Checkpoints of an unfinished run. In: its state. Out: folders that are whole, or named as not.

checkpoints/step-00000120/
    adapter.safetensors   what trains
    state.pt              position, optimiser, master weights, every process's random state
    SHA256SUMS            of both; `sha256sum -c SHA256SUMS` checks them too

A folder appears under its name in one step, when all of it is on the disk. The last two whole ones
are kept, so that there is one to fall back to. Of a run that has ended one is left, the last
weights and the position alone in it.
"""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rellm_cache.errors import RunError
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import WEIGHTS, load_tensors, save_tensors
from rellm_cache.utils.atomic_files import sync_path, sync_tree
from rellm_cache.utils.model_files import file_digest

STATE, SUMS, PARTIAL, KEPT = "state.pt", "SHA256SUMS", ".partial", 2


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: that holds them; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: list[Path] = []  # known to be, oldest first

    def path(self, step: int) -> Path:
        """Of the checkpoint after so many steps."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> tuple[int, list[str]]:
        """Step of the newest whole checkpoint, 0 if there is none; notes on damaged ones."""
        damaged: list[str] = []
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            damage = find_damage(path)
            if damage is None:
                self._whole = [path]
                step = int(path.name.removeprefix("step-"))
                return step, [f"{text}; training goes on from {path}" for text in damaged]
            damaged.append(f"{path}: the checkpoint is damaged and skipped: {damage}")
        return 0, [f"{text}; none is whole, training starts again" for text in damaged]

    def save(self, step: int, write: Callable[[Path], None], kept: int = KEPT) -> Path:
        """Put what `write` writes into a folder under the name of a step; of all, keep the newest
        `kept`."""
        target = self.path(step)
        partial = self.folder / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        files = sorted(partial.iterdir())
        lines = [f"{file_digest(file)}  {file.name}\n" for file in files]
        (partial / SUMS).write_text("".join(lines), "utf-8")
        sync_tree(partial)
        if target.exists():  # damaged, or of the same step before its epoch was over
            shutil.rmtree(target)
        partial.rename(target)
        sync_path(self.folder)
        self._whole = [*(p for p in self._whole if p != target), target][-kept:]
        for path in self.folder.glob("step-*"):
            if path not in self._whole:
                shutil.rmtree(path)
        return target


def write_state(folder: Path, model: SpeechLLM, state: dict[str, Any]) -> None:
    """Write what trains, and a state of tensors and plain values beside it."""
    save_tensors(folder / WEIGHTS, model)
    torch.save(state, folder / STATE)


def read_state(checkpoint: Path, model: SpeechLLM) -> dict[str, Any]:
    """Read what trains into a model; the state beside it. `RunError` if it does not fit."""
    load_tensors(checkpoint / WEIGHTS, model)
    try:
        state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise cannot_continue(checkpoint, error) from error
    return dict(state)


def cannot_continue(checkpoint: Path, error: Exception) -> RunError:
    """The error for a checkpoint that is whole but not of this run."""
    return RunError(
        f"{checkpoint}: cannot be continued from ({type(error).__name__}: {error}); remove it, and "
        "training goes on from an earlier checkpoint or starts again"
    )


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if they are as they were written."""
    try:
        lines = (checkpoint / SUMS).read_text("utf-8").splitlines()
        if not lines:
            return f"{SUMS} is empty"
        for line in lines:
            digest, _, name = line.partition("  ")
            if file_digest(checkpoint / name) != digest:
                return f"{name}: found other bytes than {SUMS} says"
    except (OSError, UnicodeDecodeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
