"""Summaries of stores and lists of clips, for `rellm cache info` and `ls`."""

from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.format import failures_path, list_stores
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.resumable_table import read_rows


@dataclass(frozen=True)
class StoreSummary:
    """Summary of one store: encoder, clips, size, licence.

    A store of several layers has them in `layers`, and no `layer`. A teacher store has no layer and
    no hours: its frames are tokens of responses.
    """

    name: str
    encoder: str
    model: str
    layer: int | None
    layers: tuple[int, ...]
    frame_size: int
    fingerprint: str
    clips: int
    hours: float | None
    parts: int
    bytes: int
    failed: int
    licence: str


def cache_info(cache: Path) -> list[StoreSummary]:
    """Summarize all stores under a cache root, by name.

    Raises `StoreError` if there are none, or one is damaged.
    """
    paths = list(list_stores(cache))
    if not paths:
        raise StoreError(f"{display_path(cache)}: found no store; `rellm extract` makes them")
    return [_summary(FeatureStore(path)) for path in paths]


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a store: id, length, digest of its audio, and part.

    In a teacher store there are no seconds, and the digest is that of request and response.
    """

    id: str
    frames: int
    seconds: float | None
    audio_sha256: str
    part: str


def list_clips(path: Path) -> list[ClipEntry]:
    """List the clips of a store by id; if several rows have one id, only the newest.

    Raises `StoreError` if it is not a store, or its index is damaged.
    """
    entries = {}
    store = FeatureStore(path)
    rate = store.spec.frame_rate
    for part in store.parts:
        lengths = (part.offsets[1:] - part.offsets[:-1]).tolist()
        for name, length, digest in zip(part.ids, lengths, part.audio_sha256, strict=True):
            seconds = length / rate if rate else None
            entries[name] = ClipEntry(name, length, seconds, digest.tobytes().hex(), part.path.name)
    return [entries[name] for name in sorted(entries)]


def _summary(store: FeatureStore) -> StoreSummary:
    rate, layers = store.spec.frame_rate, store.spec.layer_numbers
    one = store.spec.layer if isinstance(store.spec, EncoderSpec) and not layers else None
    failures = failures_path(store.path)
    failed = sum(1 for _ in read_rows(failures))
    return StoreSummary(
        name=store.path.name,
        encoder=store.spec.kind,
        model=store.spec.model,
        layer=one,
        layers=layers,
        frame_size=store.frame_size,
        fingerprint=store.spec.fingerprint,
        clips=len(store),
        hours=int(store.lengths(list(store.ids)).sum()) / rate / 3600 if rate else None,
        parts=len(store.parts),
        bytes=store.nbytes,
        failed=failed,
        licence=store.licence,
    )
