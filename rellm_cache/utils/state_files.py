"""State files of interrupted training: tensors and numbers in PyTorch's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state file, which `torch.load(path, weights_only=True)` reads; not atomic.

    Raises `OSError` if the disk is full or the folder cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(dict(state), file)
    except RuntimeError as error:  # of PyTorch's zip writer
        raise OSError(" ".join(str(error.__context__ or error).split())[:200]) from error
