"""Run of linear probes over the layers that a cache holds for a recipe."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.metrics.classification import ua_of_rows
from rellm_cache.metrics.correlation import concordance_interval
from rellm_cache.metrics.intervals import Interval, bootstrap
from rellm_cache.probing.linear_model import held_out_predictions
from rellm_cache.probing.report import ProbedTarget, ProbeReport, ProbeScore
from rellm_cache.probing.targets import TARGETS, Target, find_targets
from rellm_cache.probing.utterance_vectors import (
    UtteranceVectors,
    find_layers,
    read_vectors,
    shared_clips,
)
from rellm_cache.utils.console import progress

RESAMPLES = 2000


def probe(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    targets: Sequence[str] = TARGETS,
    out: Path | None = None,
) -> ProbeReport:
    """Probe every layer of a recipe's encoders that the cache holds, each stream, and all together.

    Args:
        manifest: manifest file or folder; all its splits are used, in folds.
        targets: some of `TARGETS`. One without labels is skipped, with the reason in the report.
        out: folder for `probe.json` and `probe.html`; None writes nothing.

    Raises:
        ManifestError, ConfigError: the manifest cannot be used, or a target is unknown.
        StoreError: the cache lacks the frames of a stream.
    """
    utterances = read_manifests(manifest)
    find_targets([], targets)  # unknown names, before anything is read
    layers = find_layers(recipe.require_encoders(), cache)
    layers, ids, notes = shared_clips(layers, [u.id for u in utterances])
    by_id = {u.id: u for u in utterances}
    found, skipped = find_targets([by_id[i] for i in ids], targets)
    vectors = read_vectors(layers, ids) if found else []
    scores = []
    with progress("Probing", len(found) * len(vectors), "probes") as tick:
        for target in found:
            for one in vectors:
                scores.append(_score(target, one))
                tick()
    report = ProbeReport(
        recipe=recipe.name,
        manifest=str(manifest),
        clips=len(ids),
        targets=[_described(target) for target in found],
        scores=scores,
        skipped=skipped,
        notes=notes,
    )
    if out is not None:
        report.write(out)
    return report


def _score(target: Target, vectors: UtteranceVectors) -> ProbeScore:
    predicted = held_out_predictions(target, vectors.values[target.rows])
    found = _interval(target, predicted)
    return ProbeScore(
        target=target.name,
        stream=vectors.stream,
        name=vectors.name,
        value=found.value,
        low=found.low,
        high=found.high,
        values=vectors.values.shape[1],
    )


def _interval(target: Target, predicted: np.ndarray) -> Interval:
    if not target.labels:
        return concordance_interval(target.values, predicted, RESAMPLES)
    right = predicted == target.values
    return bootstrap(ua_of_rows, target.values, right, method="percentile", resamples=RESAMPLES)


def _described(target: Target) -> ProbedTarget:
    return ProbedTarget(
        name=target.name,
        measure="UA" if target.labels else "CCC",
        clips=len(target.rows),
        classes=len(target.labels),
        chance=target.chance,
        folds_by=target.folds_by,
    )
