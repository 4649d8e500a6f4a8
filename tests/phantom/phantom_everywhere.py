"""Simulated GPU as the default device.

Import it before the package: its functions take the default device by name.
"""

from pathlib import Path
from typing import Any

from phantom import PHANTOM

# isort: split
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from rellm_cache.utils import devices

__all__ = ["PHANTOM"]

_load = AutoModelForCausalLM.from_pretrained


def _load_and_move(folder: Path, **options: Any) -> Any:
    """transformers moves weights while it reads them, to devices that it knows."""
    model, report = _load(folder, **options | {"device_map": None})
    return model.to(PHANTOM), report


devices.default_device = lambda: PHANTOM
AutoModelForCausalLM.from_pretrained = _load_and_move
Accelerator.device = property(lambda self: PHANTOM)
