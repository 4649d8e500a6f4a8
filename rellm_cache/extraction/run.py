"""Extraction of a manifest: every clip's frames go into the cache, each clip encoded once.

A clip is done when a committed part of the encoder's store holds its id with the digest of its
audio. All other clips are decoded, encoded and stored, here or by many workers. Clips that fail are
listed and never stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.corpus.speed_copies import clips_to_encode
from rellm_cache.encoders.registry import require_importable, resolve
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import (
    ClipBatch,
    ClipsEncoded,
    Failure,
    MissingClip,
    batch_by_length,
)
from rellm_cache.extraction.missing import TargetStore, find_missing, find_uncommitted
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.pipeline import MAX_BATCHES_IN_FLIGHT, ExtractionTask, Pipeline
from rellm_cache.extraction.stored_layers import choose_store
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.utils.console import Tick, progress, say
from rellm_cache.utils.interrupts import Interrupts
from rellm_cache.workers.coordinator import Coordinator
from rellm_cache.workers.messages import BatchDone, Event, Note
from rellm_cache.workers.pools import start_pool


@dataclass(frozen=True)
class StreamReport:
    """The result of an extraction for one encoder's store."""

    path: Path  # of the store
    encoded: int  # clips encoded in this extraction
    present: int  # clips that the store held before
    # Clips, encoded or failed in this extraction, whose id the store held with other audio. Reading
    # gives the new frames.
    changed: int
    failed: int  # clips that could not be encoded, listed in `failures_path(path)`
    hours: float  # of audio encoded in this extraction
    seconds: float  # of the encoder's forward passes, summed over all workers
    wall_seconds: float  # of the whole extraction, all streams together


def extract(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    batch_size: int = 16,
    device: torch.device | None = None,
    options: ExtractionOptions | None = None,
) -> list[StreamReport]:
    """Encode every clip of a manifest that the cache does not hold yet.

    Args:
        cache: folder of the stores; for a URL, the folder that `open_mirror` returns.
        device: None for the GPUs of this machine, or the CPU.
        options: workers and shard; None does all work in this process.

    Raises:
        ManifestError, ConfigError: the manifest, a model or the cluster cannot be used.
        StoreError: writing failed; the stores keep every part committed before.
        WorkersError: workers died before they encoded anything.
    """
    begun = monotonic()
    sync_mirror(cache)
    options = options or ExtractionOptions()
    limits = read_limits(manifest)
    clips = clips_to_encode(read_manifests(manifest), recipe, limits)
    utterances = [u for u in clips if options.takes(u.id)]
    streams = make_targets(recipe.require_encoders(), cache)
    targets = list(dict.fromkeys(streams.values()))  # two streams may share a store
    missing = find_missing(utterances, targets)
    needed = [t for t in targets if any(t.fingerprint in clip.missing_from for clip in missing)]
    task = ExtractionTask(
        specs=tuple(target.spec for target in needed),
        cache=cache,
        device=device,
        commit_seconds=options.commit_seconds,
        url=origin_url(cache) or "",
        limits=limits,
    )
    batches = batch_by_length(missing, batch_size)
    if batches:
        with progress("Encoding", len(missing), "clips") as tick, Interrupts() as interrupts:
            work = _ClipWork(needed)
            if options.has_workers:
                require_importable(task.specs)
                pool = start_pool(task, options)
                list(Coordinator(pool, work, batches, tick, say).run())  # clips have no results
            else:
                _encode_here(task, batches, work, tick, interrupts)
    for target in targets:
        record_failures(target.path, {u.id for u in utterances}, target.failed.values())
    wall = monotonic() - begun
    return [_report(target, utterances, wall) for target in streams.values()]


def make_targets(encoders: Mapping[str, EncoderConfig], cache: Path) -> dict[str, TargetStore]:
    """Stream → store of its encoder, weights resolved. Equal encoders share a store.

    A store with more layers than a stream asks for is one too; a message says so.

    Raises:
        ConfigError: a model cannot be used.
    """
    specs = {
        name: choose_store(name, resolve(encoder.spec), cache) for name, encoder in encoders.items()
    }
    targets = {spec: TargetStore(spec, cache) for spec in specs.values()}
    return {name: targets[spec] for name, spec in specs.items()}


class _ClipWork:
    """Clips that are encoded into stores; the stores say which are committed."""

    unit = "clip"
    in_flight = MAX_BATCHES_IN_FLIGHT

    def __init__(self, targets: Sequence[TargetStore]) -> None:
        self._targets = targets
        self._hours = 0.0

    def record(self, batch: ClipBatch, done: BatchDone) -> str:
        """Record encoded clips; returns the hours of audio so far."""
        if isinstance(done, ClipsEncoded):
            for target in self._targets:
                target.record(batch, done)
            self._hours += sum(done.seconds.values()) / 3600
        return f"{self._hours:.2f} h of audio"

    def find_lost(self, items: Iterable[MissingClip]) -> list[MissingClip]:
        """Clips that are in no committed part."""
        return find_uncommitted(items, self._targets)

    def give_up(self, item: MissingClip, reason: str) -> None:
        """List a clip as failed."""
        utterance = item.utterance
        failure = Failure(utterance.id, utterance.audio, f"{utterance.audio}: {reason}")
        for target in self._targets:
            if target.fingerprint in item.missing_from:
                target.failed[utterance.id] = failure


def _encode_here(
    task: ExtractionTask,
    batches: Sequence[ClipBatch],
    work: _ClipWork,
    tick: Tick,
    interrupts: Interrupts,
) -> None:
    by_number = {batch.number: batch for batch in batches}

    def handle(event: Event) -> None:
        if isinstance(event, BatchDone):
            batch = by_number[event.number]
            tick(len(batch.items), work.record(batch, event))
        elif isinstance(event, Note):
            say(event.text)

    with Pipeline(task, handle) as pipeline:
        for batch in batches:
            pipeline.submit(batch)
        interrupts.finishing(pipeline.stop)


def _report(target: TargetStore, utterances: Sequence[Utterance], wall: float) -> StreamReport:
    return StreamReport(
        path=target.path,
        encoded=len(target.encoded),
        present=len(utterances) - len(target.encoded) - len(target.failed),
        changed=len(target.changed),
        failed=len(target.failed),
        hours=sum(target.encoded.values()) / 3600,
        seconds=target.encoder_seconds,
        wall_seconds=wall,
    )
