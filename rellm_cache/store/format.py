"""Names, attributes and checksums of the store format; docs/cache-format.md specifies it.

<cache>/<slug>-<fingerprint:12>/          a Zarr v3 group: one encoder spec, every corpus
    zarr.json                             attributes: StoreInfo
    part-000001-1f2e3d4c/                 a Zarr v3 group, never changed once it has this name
        frames/ offsets/ ids/ id_offsets/ audio_sha256/ frames_crc32c/ [vad/]
        [scale/ mean/]                    int8 stores only
<cache>/<slug>-<fingerprint:12>.failed.jsonl    clips that could not be encoded, with reasons
<cache>/<slug>-<fingerprint:12>.lost.jsonl      clips lost to damage
<cache>/.writing/                         unfinished parts and locks; readers ignore them
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import EncoderSpec, StoredSpec, TeacherSpec, digest
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.errors import raise_if_unreadable
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.json_files import load
from rellm_cache.utils.litter import is_litter

FORMAT = "rellm-feature-store"
FORMAT_VERSION = 1
FRAMES = "frames"
METADATA = "zarr.json"
INNER_FRAMES = 256
SHARD_BYTES = 64 << 20
LARGEST_FRAME = 1_000_000  # values; the frames of known encoders have less than 10,000
WRITING = ".writing"
PART_NAME = re.compile(r"part-(?P<number>\d{6,})-(?P<suffix>[0-9a-f]{8,})")
# Keys of the attributes in early stores, which have no checksum.
STORE_KEYS = frozenset(
    ("format", "format_version", "fingerprint", "encoder", "frame_size", "licence")
)

Frames = NDArray[np.float16] | NDArray[np.int8] | NDArray[np.float32]


@dataclass(frozen=True)
class StoreInfo:
    """The attributes of a store."""

    spec: StoredSpec  # the encoder, or the text LLM, that made its frames
    frame_size: int  # D, values in a frame of one layer
    licence: str  # of the encoder's model
    # largest size of a shard file; it is not recorded, so readers assume the default
    shard_bytes: int = field(default=SHARD_BYTES, compare=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of stored values: little-endian float16, int8, or float32 in a teacher store."""
        return np.dtype(self.spec.dtype).newbyteorder("<")

    @property
    def frame_bytes(self) -> int:
        """Size of one stored frame of one layer."""
        return self.frame_size * self.dtype.itemsize

    @property
    def layer_count(self) -> int:
        """Number of layers in the store."""
        return max(1, len(self.spec.layer_numbers))

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: (D,), or (K, D) in a store of K layers."""
        return (
            *([len(self.spec.layer_numbers)] if self.spec.layer_numbers else ()),
            self.frame_size,
        )

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes as the group's zarr.json holds them."""
        return {
            "rellm": add_checksum(
                {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "fingerprint": self.spec.fingerprint,
                    "encoder": self.spec.to_json(),
                    "frame_size": self.frame_size,
                    "licence": self.licence,
                }
            )
        }


def add_checksum(own: dict[str, Any]) -> dict[str, Any]:
    """Add the digest of all keys as `checksum`."""
    return own | {"checksum": digest(own)}


def checksum_matches(own: dict[str, Any], keys_without: frozenset[str]) -> bool:
    """Return whether an attribute object matches its checksum.

    An object without a checksum is accepted if its keys are exactly `keys_without`.
    """
    if "checksum" not in own:
        return own.keys() == keys_without
    return bool(add_checksum({k: v for k, v in own.items() if k != "checksum"}) == own)


def read_info(path: Path) -> StoreInfo:
    """Read the attributes of the store at `path`.

    Raises `StoreError` if it is not a feature store, has a newer format, or was altered. Raises
    `UnreadableError` if its metadata exists but cannot be read.
    """
    try:
        own = load(path / METADATA)["attributes"]["rellm"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_unreadable(error, path / "zarr.json")
        if not list_parts(path) and (stores := list(list_stores(path))):
            raise StoreError(
                f"{display_path(path)}: a folder of feature stores, not a single one; name one: "
                f"{', '.join(map(display_path, stores))}"
            ) from error
        raise StoreError(
            f"{display_path(path)}: not a feature store ({type(error).__name__}: {error}); "
            "expected a folder that `rellm extract` made; if it was one, try `rellm cache repair "
            f"{display_path(path.parent)}`"
        ) from error
    return parse_info(own, path)


def parse_info(own: Any, path: Path) -> StoreInfo:
    """Parse the attribute `rellm` of a store, or its copy in a part.

    Raises `StoreError` as `read_info` does; the message names `path`.
    """
    if not isinstance(own, dict):
        raise StoreError(
            f"{path}: found {own!r:.40} as its attributes, expected a JSON object; zarr.json was "
            f"altered: {_repair_hint(path.parent)}"
        )
    if own.get("format") != FORMAT or own.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: found format {own.get('format')} {own.get('format_version')}, expected "
            f"{FORMAT} {FORMAT_VERSION}; read it with the version of rellm that wrote it"
        )
    try:
        is_teacher = own["encoder"].get("kind") == "teacher"
        kind: type[StoredSpec] = TeacherSpec if is_teacher else EncoderSpec
        spec = kind.from_json(own["encoder"])
    except (ConfigError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise StoreError(f"{path}: its encoder is unknown to this version: {error}") from error
    recorded = str(own.get("fingerprint"))
    if spec.fingerprint != recorded:
        raise StoreError(
            f"{path}: its attributes give fingerprint {spec.fingerprint[:12]}, recorded is "
            f"{recorded[:12]}; zarr.json was altered: {_repair_hint(path.parent)}"
        )
    if not checksum_matches(own, STORE_KEYS):
        raise StoreError(
            f"{path}: its attributes do not match their checksum; zarr.json was altered: "
            f"{_repair_hint(path.parent)}"
        )
    size, licence = own.get("frame_size"), own.get("licence")
    if not isinstance(size, int) or not 0 < size <= LARGEST_FRAME or not isinstance(licence, str):
        raise StoreError(
            f"{path}: found frame_size {size!r:.40} and licence {licence!r:.40}, expected a number "
            f"of values up to {LARGEST_FRAME} and a text; {_repair_hint(path.parent)}"
        )
    return StoreInfo(spec, size, licence)


def _repair_hint(cache: Path) -> str:
    root = display_path(cache)
    return f"`rellm cache repair {root}` restores it from a part, or extract into a new cache"


def store_path(cache: Path, spec: StoredSpec) -> Path:
    """Return the folder of a spec's store, existing or not; the spec needs resolved weights.

    Only the fingerprint identifies a store: its slug may come from another name of the model.
    """
    for path in cache.glob(f"*-{spec.fingerprint[:12]}"):
        if not is_litter(path):
            return path
    return cache / f"{spec.slug}-{spec.fingerprint[:12]}"


def failures_path(store: Path) -> Path:
    """Return the path of the list of clips that could not be encoded."""
    return store.with_name(f"{store.name}.failed.jsonl")


def lost_path(store: Path) -> Path:
    """Return the path of the list of clips that a repair dropped, to be extracted again."""
    return store.with_name(f"{store.name}.lost.jsonl")


def clip_lists(store: Path) -> tuple[Path, Path]:
    """Return the paths of both lists of a store, existing or not."""
    return failures_path(store), lost_path(store)


def require_cache_root(cache: Path) -> None:
    """Raise `StoreError` if the path is a single store instead of the folder of stores."""
    if list_parts(cache):
        raise StoreError(
            f"{display_path(cache)}: a feature store, not the folder of stores; give "
            f"{display_path(cache.parent)}"
        )


def list_stores(cache: Path) -> Iterator[Path]:
    """Yield the store folders under a cache root, sorted by name.

    Raises `StoreError` if `cache` is itself a store.
    """
    require_cache_root(cache)
    if cache.is_dir():
        yield from sorted(p.parent for p in cache.glob("*/zarr.json"))


def list_parts(store: Path) -> list[Path]:
    """List committed parts, oldest first."""
    return sorted(p for p in store.glob("part-*") if p.is_dir())


def next_part_name(parts: Iterable[str], suffix: str) -> str:
    """Return a name that sorts after all names in `parts`."""
    numbers = [int(name.split("-")[1]) for name in parts]
    return f"part-{max(numbers, default=0) + 1:06d}-{suffix}"


def replacement_name(part: Path) -> str:
    """Return a free name that sorts right after `part` and before the next part."""
    number, suffix = _split_part_name(part)
    siblings = sorted(
        _split_part_name(p)[1] for p in list_parts(part.parent) if _split_part_name(p)[0] == number
    )
    following = next((s for s in siblings if s > suffix), "g")  # sorts after all hex digits
    for _ in range(1000):
        name = secrets.token_hex(4)
        if suffix < name < following:
            return f"part-{number}-{name}"
    return f"part-{number}-{suffix}{secrets.token_hex(4)}"  # no name left between the two


def _split_part_name(part: Path) -> tuple[str, str]:
    """Split a part's name into number and hex digits."""
    name = PART_NAME.fullmatch(part.name)
    if name is None:
        raise StoreError(
            f"{part}: not the name of a part; expected part-<number>-<hex digits>; move it out of "
            "the store"
        )
    return name["number"], name["suffix"]
