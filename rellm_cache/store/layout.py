"""Names and attributes of a feature store on disk; docs/cache-format.md describes them.

<cache>/<slug>-<fingerprint:12>/          a Zarr v3 group: one encoder spec, every corpus
    zarr.json                             attributes: StoreInfo
    part-000001-1f2e3d4c/                 a Zarr v3 group, never changed once it has this name
        frames/ offsets/ ids/ id_offsets/ audio_sha256/ frames_crc32c/ [vad/]
<cache>/<slug>-<fingerprint:12>.failed.jsonl    clips that could not be encoded, with reasons
<cache>/.writing/                         parts being written; nothing here is ever read
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config import EncoderSpec
from rellm_cache.errors import ConfigError, StoreError

FORMAT = "rellm-feature-store"
FORMAT_VERSION = 1
INNER_FRAMES = 256
SHARD_BYTES = 64 << 20
WRITING = ".writing"


@dataclass(frozen=True)
class StoreInfo:
    """A store's own attributes."""

    spec: EncoderSpec
    frame_size: int
    licence: str

    def to_attributes(self) -> dict[str, Any]:
        """As the group's zarr.json holds them."""
        return {
            "rellm": {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "fingerprint": self.spec.fingerprint,
                "encoder": dataclasses.asdict(self.spec),
                "frame_size": self.frame_size,
                "licence": self.licence,
            }
        }


def read_info(path: Path) -> StoreInfo:
    """The attributes of the store at `path`.

    Raises:
        StoreError: it is not a feature store, is of a newer format, or was altered.
    """
    try:
        own = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]["rellm"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not a feature store ({type(error).__name__}: {error}); expected a folder "
            "that `rellm extract` made"
        ) from error
    if own.get("format") != FORMAT or own.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: found format {own.get('format')} {own.get('format_version')}, expected "
            f"{FORMAT} {FORMAT_VERSION}; read it with the version of rellm that wrote it"
        )
    try:
        spec = EncoderSpec(**own["encoder"])
    except (ConfigError, TypeError, KeyError) as error:
        raise StoreError(f"{path}: its encoder is unknown to this version: {error}") from error
    if spec.fingerprint != own["fingerprint"]:
        raise StoreError(
            f"{path}: its attributes give fingerprint {spec.fingerprint[:12]}, recorded is "
            f"{own['fingerprint'][:12]}; zarr.json was altered, extract into a new cache"
        )
    return StoreInfo(spec, own["frame_size"], own["licence"])


def store_path(cache: Path, spec: EncoderSpec) -> Path:
    """Where the store of a spec with resolved weights lies, or is to be made.

    A store of the same fingerprint is the same store, by whatever folder its model was named then.
    """
    for path in cache.glob(f"*-{spec.fingerprint[:12]}"):
        return path
    return cache / f"{spec.slug}-{spec.fingerprint[:12]}"


def failures_path(store: Path) -> Path:
    """The list of clips that could not be encoded, beside the store."""
    return store.with_name(f"{store.name}.failed.jsonl")


def list_stores(cache: Path) -> Iterator[Path]:
    """Folders under a cache root that look like stores, by name."""
    if cache.is_dir():
        yield from sorted(p.parent for p in cache.glob("*/zarr.json"))


def list_parts(store: Path) -> list[Path]:
    """Committed parts, oldest first."""
    return sorted(p for p in store.glob("part-*") if p.is_dir())


def next_part_name(store: Path, suffix: str) -> str:
    """A name that sorts after every committed part."""
    numbers = [int(p.name.split("-")[1]) for p in list_parts(store)]
    return f"part-{max(numbers, default=0) + 1:06d}-{suffix}"


def find_store(cache: Path, spec: EncoderSpec) -> Path:
    """The store that holds what a recipe's encoder asks for.

    Raises:
        StoreError: none does; the message names the fields in which the nearest one differs. Or
            more than one does, with different weights, and the recipe pins none.
    """
    stores = [(path, read_info(path).spec) for path in list_stores(cache)]
    matches = [(path, found) for path, found in stores if not spec.differences(found)]
    if len(matches) > 1:
        pins = ", ".join(f'weights = "{found.weights}" ({path.name})' for path, found in matches)
        raise StoreError(
            f"{cache}: {len(matches)} stores hold {spec.kind} {spec.model} with different weights; "
            f"pin one in the recipe: {pins}"
        )
    if matches:
        return matches[0][0]
    same_kind = [(path, found) for path, found in stores if found.kind == spec.kind]
    if not same_kind:
        raise StoreError(
            f"{cache}: found no store of encoder {spec.kind} {spec.model}; make it with "
            "`rellm extract`"
        )
    path, found = min(same_kind, key=lambda item: len(spec.differences(item[1])))
    if spec.dtype == "int8" and not dataclasses.replace(spec, dtype="float16").differences(found):
        raise StoreError(
            f"{path}: holds these frames as float16, the recipe asks for int8; make that with "
            f"`rellm cache quantize {path}`"
        )
    raise StoreError(
        f"{path}: a store of another fingerprint; {'; '.join(spec.differences(found))}; "
        "run `rellm extract` with this recipe, or name this store's encoder in the recipe"
    )
