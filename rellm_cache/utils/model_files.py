"""Model folders: found locally or on the model hub, checked, and identified by digest.

A hub id is looked up under the models root first (`cache/models/<owner>/<name>`, the hub's own
layout), then on the hub. Only safetensors and text files are ever loaded.
"""

import hashlib
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from yaml import YAMLError

from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.utils.console import counted
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import (
    file_digest,
    file_exists,
    folder_exists,
    read_regular,
    require_regular,
    what_is_there,
)

SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "preprocessor_config.json",
)
CODE_FILES = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
)
IN_LAYER = re.compile(r"layers?\.\d+\.")
# Lowest and highest numbers in a config. Transformers builds lists of these lengths before it reads
# a weight. Layers may be counted from the last one.
COUNTS = {"layers": (-1000, 1000), "experts": (0, 10_000), "labels": (0, 100_000)}
SIZES = ("hidden_size", "num_attention_heads", "max_position_embeddings")  # above 0
LARGEST_SIZE = 2**31 - 1
LARGEST_FACTOR = 1e12  # of numbers that are not whole
UNKNOWN_LICENCE = "unknown"
MESSAGE = 300  # characters of another library's message
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def models_root() -> Path:
    """Return the folder of local copies of hub models: `$RELLM_MODELS`, or `cache/models`."""
    return Path(os.environ.get("RELLM_MODELS", "cache/models"))


def find_model(
    model: str, needed: tuple[str, ...], revision: str = "", *, pickled: bool = False
) -> Path:
    """Return the local folder of `model`, after checking its weights and the `needed` files.

    Args:
        pickled: whether `pytorch_model.bin` will do where there are no safetensors. Load it with
            `weights_only` alone.

    Raises `ConfigError` if the model is neither a folder nor under the models root nor on the hub,
    or a file is missing or truncated.
    """
    folder = locate_model(model, revision)
    local = folder in (Path(model), models_root() / model)
    if pickled and not local and _weights_name(folder, pickled) is None:
        folder = _download(model, revision, [*SAFE_FILES, "pytorch_model*.bin"])
    check_files(folder, needed, pickled=pickled)
    return folder


def locate_model(model: str, revision: str = "") -> Path:
    """Return the local folder of `model`, without checks; `ConfigError` if there is none."""
    candidates = (Path(model), models_root() / model)
    silence_transformers()
    folder = next((c for c in candidates if folder_exists(c)), None)
    if folder is None:
        folder = _download(model, revision)
    return folder


def local_folder(model: str, revision: str = "") -> Path | None:
    """Return the folder of `model` on this machine, also from the hub's cache; None if missing."""
    for folder in (Path(model), models_root() / model):
        if folder_exists(folder):
            return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision or None, local_files_only=True))
    except hub_errors():
        return None


def find_config(model: str, revision: str = "") -> Path:
    """Return the path of a model's `config.json`; from the hub only this file is downloaded.

    Raises `ConfigError` if there is none.
    """
    for folder in (Path(model), models_root() / model):
        if folder_exists(folder):
            _require_file(folder, "config.json")
            return folder / "config.json"
    return _download(model, revision, ["config.json"]) / "config.json"


def local_file(model: str, name: str, revision: str = "") -> Path | None:
    """Return the path of a model's file if it is on this machine; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    for folder in (Path(model), models_root() / model):
        if folder_exists(folder):
            return folder / name if (folder / name).is_file() else None
    if not HUB_ID.fullmatch(model):
        return None
    found = try_to_load_from_cache(model, name, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


@contextmanager
def model_errors(folder: Path) -> Iterator[None]:
    """Convert errors of transformers for a damaged or unknown model folder to `ConfigError`.

    A folder that asks for its own Python code, has something else in place of a file, or a
    config with absurd numbers is refused before.
    """
    _refuse_irregular_files(folder)
    refuse_custom_code(folder)
    _refuse_absurd_numbers(folder)
    try:
        yield
    except (RellmError, MemoryError):
        raise
    except Exception as error:  # transformers and tokenizers raise errors of many types
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        require_json_files(folder)
        reason = " ".join(str(error).split())[:MESSAGE]
        raise ConfigError(
            f"{folder}: transformers cannot load this model folder ({type(error).__name__}: "
            f"{reason}); copy its files again, or choose a model that this version supports"
        ) from error


def refuse_custom_code(folder: Path) -> None:
    """Raise `ConfigError` if a file of a model folder asks for Python code from the folder.

    Transformers would ask on the terminal whether to execute it.
    """
    for path in (folder / name for name in CODE_FILES):
        if path.is_file() and _asks_for_code(read_object(path, ConfigError, "copy the file again")):
            raise ConfigError(
                f"{path}: found 'auto_map', which asks for Python code from the model folder; "
                "rellm never executes it; use a checkpoint in a native layout of transformers (an "
                "LLM: Llama, Qwen2, Qwen3), or, if the model needs no code, remove 'auto_map' there"
            )


def _refuse_irregular_files(folder: Path) -> None:
    """Raise `ConfigError` for a pipe, device, broken link or loop of links in a model folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() and (found := what_is_there(path)):
            raise ConfigError(f"{path}: {found}; copy the file again, or remove it")


def _refuse_absurd_numbers(folder: Path) -> None:
    """Raise `ConfigError` for a number in a config that no model has.

    Transformers would build layers for hours, ask for too much memory, or compute nonsense.
    """
    for path in (folder / "config.json", folder / "preprocessor_config.json"):
        content = read_object(path, ConfigError, "copy the file again") if path.is_file() else {}
        for name, found in _numbers(content):
            low, high = _range_of(name, found)
            if not low <= found <= high:
                raise ConfigError(
                    f"{path}: found {name} = {f'{found}'[:20]}, expected {low:g} to {high:g}; copy "
                    "the file from the model again"
                )


def _range_of(name: str, found: object) -> tuple[float, float]:
    """Lowest and highest plausible value of a number in a config."""
    if name.endswith(("_eps", "_epsilon")):
        return 0, 1
    if isinstance(found, float):
        return -LARGEST_FACTOR, LARGEST_FACTOR
    if name in SIZES:
        return 1, LARGEST_SIZE
    return COUNTS.get(name.rpartition("_")[2], (-LARGEST_SIZE, LARGEST_SIZE))


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers at any depth of a JSON value, each with its name or that of its list."""
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, key)


def _asks_for_code(value: Any) -> bool:
    """Whether a JSON value holds a key `auto_map` at any depth."""
    if isinstance(value, list):
        return any(map(_asks_for_code, value))
    return isinstance(value, dict) and (
        bool(value.get("auto_map")) or any(map(_asks_for_code, value.values()))
    )


def require_json_files(folder: Path) -> None:
    """Raise `ConfigError` that names the first damaged JSON file of a model folder."""
    for path in (folder / name for name in JSON_FILES):
        if path.is_file():
            read_object(path, ConfigError, "copy the file again")
            if read_regular(path).startswith(BOM_UTF8):
                raise ConfigError(
                    f"{path}: found a byte order mark, which transformers does not read; save it "
                    "as UTF-8 without one"
                )


def load_pretrained(
    model_class: Any,
    folder: Path,
    fix: str = "download it again",
    needed: Callable[[str], bool] = lambda name: True,
    quantized: bool = False,
    **options: Any,
) -> Any:
    """Load a model of transformers with all its weights; `options` go to `from_pretrained`.

    Raises `ConfigError` if the folder cannot be loaded, has weights of other shapes or of more
    layers than its config, or lacks a weight whose name is `needed`; then the message ends with
    `fix`.

    Args:
        quantized: the weights in the folder are packed 4-bit or 8-bit numbers.
    """
    silence_transformers()
    with model_errors(folder):
        # Other shapes are reported below, except those of packed 4-bit weights.
        model, report = model_class.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=not quantized,
            trust_remote_code=False,
            **options,
        )
    if other := sorted(report["mismatched_keys"]):
        name, found, expected = other[0]
        raise ConfigError(
            f"{folder}: found {name} with shape {list(found)}, expected {list(expected)} by "
            f"config.json, as for {counted(len(other), 'weight')}; copy config.json and the "
            "weights from the same model"
        )
    if unused := sorted(filter(IN_LAYER.search, report["unexpected_keys"])):
        raise ConfigError(
            f"{folder}: config.json describes a model without {unused[0]}, which the weights have; "
            "copy config.json and the weights from the same model"
        )
    if missing := sorted(name for name in report["missing_keys"] if needed(name)):
        raise ConfigError(
            f"{folder}: the checkpoint lacks {missing[:3]}; expected every weight of a "
            f"{type(model).__name__}: {fix}"
        )
    return model


def silence_transformers() -> None:
    """Turn off the progress bars and notes of transformers; commands show their own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def hub_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the hub's client: no network, no such repository, no hub id."""
    # HTTPError is from its HTTP library, which depends on the version; type checkers do not see it.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return OSError, ValueError, HTTPError


def _download(model: str, revision: str, files: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            model, revision=revision or None, allow_patterns=files or SAFE_FILES
        )
    except hub_errors() as error:
        raise ConfigError(
            f"model {model!r}: no such folder, none at {models_root() / model}, and the hub could "
            f"not give it ({type(error).__name__}); put the model's files there, or "
            "set $RELLM_MODELS to a folder that has OWNER/NAME below it"
        ) from error
    return Path(path)


def check_files(folder: Path, needed: tuple[str, ...], *, pickled: bool = False) -> None:
    """Raise `ConfigError` that names the first missing or truncated file of a model folder.

    A folder whose config names weights elsewhere, or that has an adapter, is refused too.
    """
    for name in ("config.json", *needed):
        _require_file(folder, name)
    _refuse_other_weights(folder)
    for file in weight_files(folder, pickled=pickled):
        require_regular(file, ConfigError, "copy the file again")
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, "numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{file}: not complete safetensors weights ({error}); copy the file again"
            ) from error


def _require_file(folder: Path, name: str) -> None:
    """Raise `ConfigError` unless a model folder has this file."""
    if found := what_is_there(folder / name):
        raise ConfigError(f"{folder / name}: {found}; copy the file again")
    if not (folder / name).exists():
        raise ConfigError(f"{folder}: {name} is missing from the model folder; copy it there")


def weight_files(folder: Path, *, pickled: bool = False) -> list[Path]:
    """Return the weight files of a model folder that transformers loads.

    They are safetensors; with `pickled`, `pytorch_model.bin` where there are none. A single file is
    loaded even if there is an index of other files.

    Raises `ConfigError` if one or all are missing.
    """
    name = _weights_name(folder, pickled)
    if name is None:
        refused = "pickled .bin weights are never loaded: convert them to safetensors"
        raise ConfigError(
            f"{folder}: model.safetensors is missing from the model folder "
            f"({'and pytorch_model.bin too: copy one of them there' if pickled else refused})"
        )
    if (folder / name).exists():
        return [folder / name]
    index = folder / f"{name}.index.json"
    fix = "copy the file again"
    weight_map = read_object(index, ConfigError, fix).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(
            f"{index}: found weight_map = {weight_map!r:.40}, expected an object that names the "
            f"file of each weight; {fix}"
        )
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if Path(shard).name != shard:
            raise ConfigError(
                f"{index}: found the file {shard!r} in weight_map, expected a name in this folder; "
                f"{fix}"
            )
        if not file_exists(folder / shard):
            raise ConfigError(f"{folder}: {shard} is missing; {index.name} names it")
    return [folder / shard for shard in shards]


def _refuse_other_weights(folder: Path) -> None:
    """Raise `ConfigError` where transformers would load weights that no digest here covers."""
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder}/adapter_config.json: found an adapter, which transformers would add to the "
            "model; merge it into the weights, or remove this file"
        )
    config = folder / "config.json"
    if config.is_file():
        named = read_object(config, ConfigError, "copy the file again").get("transformers_weights")
        if named not in (None, "model.safetensors"):
            raise ConfigError(
                f"{config}: found transformers_weights = {named!r:.80}, expected weights in "
                "model.safetensors; rename the file, and remove this key"
            )


def _weights_name(folder: Path, pickled: bool) -> str | None:
    """Name of a folder's weights, as one file or as an index of shards; None if it has none."""
    for name in ("model.safetensors", "pytorch_model.bin")[: 1 + pickled]:
        if any((folder / file).exists() for file in (name, f"{name}.index.json")):
            return name
    return None


def weights_digest(folder: Path, others: tuple[str, ...] = (), *, pickled: bool = False) -> str:
    """Return the SHA-256 (hex) of all files that determine a model's output.

    Args:
        others: names of files to include after config, preprocessor config and weights.
        pickled: as in `weight_files`.
    """
    sha = hashlib.sha256()
    texts = [folder / "config.json", folder / "preprocessor_config.json"]
    files = [path for path in texts if path.is_file()]
    files += weight_files(folder, pickled=pickled)
    for path in files + [folder / name for name in others]:
        sha.update(bytes.fromhex(file_digest(path)))
    return sha.hexdigest()


def pinned_digest(
    folder: Path, pin: str, others: tuple[str, ...] = (), *, pickled: bool = False
) -> str:
    """Return the `weights_digest` of a model folder; `ConfigError` if a recipe pins another."""
    weights = weights_digest(folder, others, pickled=pickled)
    if pin and pin != weights:
        raise ConfigError(
            f"{folder}: its weights have digest {weights[:12]}, the recipe pins {pin[:12]}; use "
            "the model the recipe was made with, or drop the pin"
        )
    return weights


def stated_licence(folder: Path) -> str:
    """Return the licence that the model card in a folder states; empty if it states none."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    try:
        stated = (metadata_load(card) or {}) if card.is_file() else {}
    except (OSError, ValueError, YAMLError):
        return ""
    licence = str(stated.get("license") or "")
    if licence == "other":
        return str(stated.get("license_name") or "a licence of its own")
    return licence
