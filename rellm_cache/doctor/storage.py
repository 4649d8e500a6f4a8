"""Caches, models and the hub: disk, page cache, locks, which models are there."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rellm_cache.config.schema import Recipe
from rellm_cache.doctor.checks import Check
from rellm_cache.errors import RellmError
from rellm_cache.store.format import list_stores
from rellm_cache.utils.devices import machine_memory
from rellm_cache.utils.model_files import HUB_ID, check_files, local_folder, models_root

LEAST_DISK: Final = 2e9  # bytes: the demo needs 1 GB with its models
HUB_SECONDS: Final = 5.0


def check_cache(cache: Path) -> list[Check]:
    """Check disk space, locks and the size of one cache folder beside the free memory."""
    group = f"cache {cache}"
    folder = next(p for p in (cache.absolute(), *cache.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free"
    found = [
        Check(group, "disk", "ok", text)
        if free >= LEAST_DISK
        else Check(group, "disk", "warning", text, "free some space, or choose another --cache")
    ]
    found.append(_check_writing(group, folder))
    stores = list(list_stores(cache)) if cache.is_dir() else []
    if not stores:
        return [*found, Check(group, "stores", "ok", "none yet: `rellm extract` makes them")]
    size = sum(p.stat().st_size for s in stores for p in s.rglob("*") if p.is_file())
    memory = machine_memory()[1]
    text = f"{len(stores)}, {size / 1e9:.2f} GB, beside {memory / 1e9:.1f} GB of free memory"
    if size > memory:
        fix = (
            "each epoch reads from the disk: use a fast local disk, or halve the frames with "
            "--set encoders.speech.dtype=int8"
        )
        return [*found, Check(group, "stores", "warning", text, fix)]
    return [*found, Check(group, "stores", "ok", f"{text}: they stay in the page cache")]


def _check_writing(group: str, folder: Path) -> Check:
    """Write, sync and lock a temporary file."""
    name = "writing and locks"
    try:
        with tempfile.NamedTemporaryFile(prefix=".rellm-doctor-", dir=folder) as file:
            file.write(b"rellm")
            file.flush()
            os.fsync(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        fix = f"make {folder} writable, or choose a --cache on a disk that has file locks"
        return Check(group, name, "error", f"{folder}: {error.strerror}", fix)
    return Check(group, name, "ok", f"both work in {folder}")


def models_of(recipe: Recipe) -> dict[str, str]:
    """Model (hub id or folder) -> revision, for every model that a recipe names."""
    models = {spec.model: "" for spec in recipe.encoders.values() if spec.model}
    if recipe.transcriber is not None:
        models[recipe.transcriber.model] = ""
    if recipe.llm is not None:
        models[recipe.llm.model] = recipe.llm.revision
    return models


def check_models(recipes: Iterable[Recipe], required: bool) -> list[Check]:
    """Check for each model that recipes name whether it is on this machine, complete.

    Args:
        required: whether a missing model is an error and not a warning.
    """
    users: dict[tuple[str, str], list[str]] = {}
    for recipe in recipes:
        for model, revision in models_of(recipe).items():
            users.setdefault((model, revision), []).append(recipe.name)
    return [_check_model(*model, names, required) for model, names in users.items()]


def _check_model(model: str, revision: str, users: list[str], required: bool) -> Check:
    group, used = "models", f"for {', '.join(users)}"
    folder = local_folder(model, revision)
    if folder is None:
        place = f"put its files into {models_root() / model}"
        if HUB_ID.fullmatch(model):
            fix = f"it is downloaded when it is first used, if the hub answers; or {place}"
        else:
            fix = f"{place}; `rellm import qwen` converts Qwen-7B of the paper"
        return Check(group, model, "error" if required else "warning", f"missing, {used}", fix)
    try:
        check_files(folder, ())
    except RellmError as error:
        return Check(group, model, "error", f"{error}, {used}", "copy or download it again")
    return Check(group, model, "ok", f"in {folder}, {used}")


def check_hub() -> Check:
    """Check whether the model hub answers."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    group, name = "models", "hub"
    if HF_HUB_OFFLINE:
        text, fix = "HF_HUB_OFFLINE is set", "unset it to download models"
        return Check(group, name, "warning", text, fix)
    try:
        with urlopen(Request(ENDPOINT, method="HEAD"), timeout=HUB_SECONDS):
            pass
    except HTTPError as error:  # it answered
        return Check(group, name, "ok", f"{ENDPOINT} answers with {error.code}")
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        fix = "check network and proxy; without the hub, copy models to the folder above"
        return Check(group, name, "warning", f"{ENDPOINT}: {reason}", fix)
    return Check(group, name, "ok", f"{ENDPOINT} answers")
