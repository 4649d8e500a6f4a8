"""extract. In: a manifest and a recipe. Out: every clip's frames in the cache, made once.

A clip is done when its id and the digest of its audio are in a committed part of this encoder's
store. Everything else is decoded once, encoded and written; what fails is listed, never stored.
How the work is done, here or by many workers, is in `stages/extraction/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.encoders.registry import resolve
from rellm_cache.errors import ConfigError
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import Batch, BatchDone, Event, Job, Note, length_sorted
from rellm_cache.extraction.missing import Target, find_missing
from rellm_cache.extraction.pipeline import Pipeline
from rellm_cache.extraction.workers.coordinator import Coordinator, Pool
from rellm_cache.extraction.workers.options import Spread
from rellm_cache.extraction.workers.processes import ProcessPool
from rellm_cache.extraction.workers.ray import RayPool
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.utils.console import Tick, progress, say
from rellm_cache.utils.interrupts import Interrupts


@dataclass(frozen=True)
class StreamReport:
    """What happened to one encoder's store.

    Attributes:
        path: of the store.
        encoded: clips written now.
        present: clips that were there already.
        changed: of the clips written or failed now, those whose id the store held with other
            audio; where written, the new frames win.
        failed: clips that could not be encoded, listed in `failures_path(path)`.
        hours: of audio encoded now.
        seconds: the encoder's forward passes took, summed over all workers.
        wall_seconds: the whole extraction took, all streams together.
    """

    path: Path
    encoded: int
    present: int
    changed: int
    failed: int
    hours: float
    seconds: float
    wall_seconds: float


def extract(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    batch_size: int = 16,
    device: torch.device | None = None,
    spread: Spread | None = None,
) -> list[StreamReport]:
    """Encode every clip of a manifest that the cache does not hold yet.

    Args:
        cache: root of the stores; for a URL, what `open_mirror` gives.
        device: None for the GPUs there are, or the CPU.
        spread: workers and shard; None does all of the work in this process.

    Raises:
        ManifestError, ConfigError: the manifest, a model or the cluster cannot be used.
        StoreError: writing failed; the stores keep every part committed before.
        WorkersError: worker processes die before they can do anything.
    """
    begun = monotonic()
    sync_mirror(cache)
    spread = spread or Spread()
    utterances = spread.share(read_manifests(manifest))
    streams = make_targets(recipe, cache)
    by_fingerprint = {target.fingerprint: target for target in streams}  # both may be one store
    targets = list(by_fingerprint.values())
    missing = find_missing(utterances, targets)
    needed = [t for t in targets if any(t.fingerprint in work.lacking for work in missing)]
    job = Job(
        specs=tuple(target.spec for target in needed),
        cache=cache,
        device=device,
        commit_seconds=spread.commit_seconds,
        url=origin_url(cache) or "",
    )
    batches = length_sorted(missing, batch_size)
    if batches:
        with progress("Encoding", len(missing), "clips") as tick:
            _encode(job, batches, needed, spread, tick)
    for target in targets:
        record_failures(target.path, {u.id for u in utterances}, target.failed.values())
    wall = monotonic() - begun
    return [_report(by_fingerprint[t.fingerprint], utterances, wall) for t in streams]


def make_targets(recipe: Recipe, cache: Path) -> list[Target]:
    """The store of each encoder of a recipe, its weights resolved: speech, then emotion.

    Raises:
        ConfigError: the recipe's model reads, or a model cannot be used.
    """
    if recipe.text is not None:
        raise ConfigError(
            f"recipe {recipe.name!r} reads text and needs no frames; `rellm train` makes its run "
            "folder, `rellm transcribe` what it reads of Whisper"
        )
    specs = [s for s in (recipe.encoders.speech, recipe.encoders.emotion) if s is not None]
    return [Target(resolve(spec), cache) for spec in specs]


def _encode(
    job: Job, batches: Sequence[Batch], targets: Sequence[Target], spread: Spread, tick: Tick
) -> None:
    if spread.ray or spread.workers:
        pool: Pool
        if spread.ray:
            pool = RayPool(spread.ray, spread.workers, job)
        else:
            pool = ProcessPool(spread.workers, job)
        with Interrupts():
            Coordinator(pool, targets, batches, tick, say).run()
        return
    by_number = {batch.number: batch for batch in batches}

    hours = 0.0

    def take(event: Event) -> None:
        nonlocal hours
        if isinstance(event, BatchDone):
            for target in targets:
                target.take(by_number[event.number], event)
            hours += sum(event.seconds.values()) / 3600
            tick(len(by_number[event.number].work), f"{hours:.2f} h of audio")
        elif isinstance(event, Note):
            say(event.text)

    with Interrupts() as interrupts, Pipeline(job, take) as pipeline:
        for batch in batches:
            pipeline.submit(batch)
        interrupts.finishing(pipeline.stop)


def _report(target: Target, utterances: Sequence[Utterance], wall: float) -> StreamReport:
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
