"""Tensor files: reading of safetensors and of PyTorch's files, without running code in them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rellm_cache.errors import RellmError
from rellm_cache.utils.regular_files import require_regular

MESSAGE = 200  # characters of another library's message


def load_safetensors(path: Path, error: type[RellmError], fix: str) -> dict[str, torch.Tensor]:
    """Name → tensor of a safetensors file, on the CPU.

    Raises `error`, which ends with `fix`, if it is no regular file or not readable as such.
    """
    return dict(_read(path, error, fix, lambda: load_file(path)))


def load_torch(path: Path, error: type[RellmError], fix: str, **options: Any) -> dict[str, Any]:
    """The state in a file of `torch.save`, on the CPU unless `options` say otherwise.

    Raises `error`, which ends with `fix`, if it is no regular file, is damaged, would run code, or
    holds something else than names and values.
    """
    options = {"map_location": "cpu", **options}
    state = _read(path, error, fix, lambda: torch.load(path, weights_only=True, **options))
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise error(f"{path}: found {type(state).__name__}, expected values by name; {fix}")
    return state


def _read(path: Path, error: type[RellmError], fix: str, read: Any) -> Any:
    require_regular(path, error, fix)
    try:
        return read()
    except MemoryError:
        raise
    except pickle.UnpicklingError as found:
        reason = "cut, or it needs Python code, which is never run"
        raise error(f"{path}: damaged, or no file of tensors ({reason}); {fix}") from found
    except Exception as found:  # both libraries raise errors of many types at damaged bytes
        reason = (str(found).strip() or type(found).__name__).splitlines()[0][:MESSAGE]
        raise error(f"{path}: damaged, or no file of tensors ({reason}); {fix}") from found
