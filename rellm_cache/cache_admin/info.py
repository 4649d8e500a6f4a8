"""cache info and ls. In: a cache root, or one store. Out: what each store holds, or each clip."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import FRAMES_PER_SECOND
from rellm_cache.errors import StoreError
from rellm_cache.store.format import failures_path, list_stores
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path

FRAMES_PER_HOUR = FRAMES_PER_SECOND * 3600


@dataclass(frozen=True)
class StoreSummary:
    """One store: whose frames, how many, how large, under which licence.

    A teacher's store, whose frames are the tokens of responses, has no layer and no hours.
    """

    name: str
    encoder: str
    model: str
    layer: int | None
    frame_size: int
    fingerprint: str
    clips: int
    hours: float | None
    parts: int
    bytes: int
    failed: int
    licence: str

    def to_json(self) -> dict[str, Any]:
        """As `cache info --json` prints it."""
        return vars(self)


def cache_info(cache: Path) -> list[StoreSummary]:
    """Summaries of all stores under a cache root, by name.

    Raises:
        StoreError: there is none, or one is damaged.
    """
    paths = list(list_stores(cache))
    if not paths:
        raise StoreError(f"{display_path(cache)}: found no store; `rellm extract` makes them")
    return [_summary(FeatureStore(path)) for path in paths]


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a store: its id, how long it is, whose audio it is of, and where it lies.

    In a teacher's store the digest is that of the request and the response, and there are no
    seconds.
    """

    id: str
    frames: int
    seconds: float | None
    audio_sha256: str
    part: str


def list_clips(path: Path) -> list[ClipEntry]:
    """Every clip of a store as it is read, by id: of several rows of an id the newest.

    Raises:
        StoreError: it is no store, or its index is damaged.
    """
    entries = {}
    store = FeatureStore(path)
    hears = isinstance(store.spec, EncoderSpec)
    for part in store.parts:
        lengths = (part.offsets[1:] - part.offsets[:-1]).tolist()
        for name, length, digest in zip(part.ids, lengths, part.audio_sha256, strict=True):
            seconds = length / FRAMES_PER_SECOND if hears else None
            entries[name] = ClipEntry(name, length, seconds, digest.tobytes().hex(), part.path.name)
    return [entries[name] for name in sorted(entries)]


def _summary(store: FeatureStore) -> StoreSummary:
    hears = isinstance(store.spec, EncoderSpec)
    failures = failures_path(store.path)
    failed = len(failures.read_text("utf-8").splitlines()) if failures.exists() else 0
    return StoreSummary(
        name=store.path.name,
        encoder=store.spec.kind,
        model=store.spec.model,
        layer=store.spec.layer if isinstance(store.spec, EncoderSpec) else None,
        frame_size=store.frame_size,
        fingerprint=store.spec.fingerprint,
        clips=len(store),
        hours=int(store.lengths(list(store.ids)).sum()) / FRAMES_PER_HOUR if hears else None,
        parts=len(store.parts),
        bytes=store.nbytes,
        failed=failed,
        licence=store.licence,
    )
