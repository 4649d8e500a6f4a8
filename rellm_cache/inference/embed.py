"""Embeddings of a manifest's utterances by a trained run, read from the cache, in an array file.

`pooled` is what the heads read, a vector for each utterance; `states` are what the adapter gives
the LLM. They are those of `Run.embed`. No LLM is loaded.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from rellm_cache.corpus.array_files import (
    ArrayColumn,
    ArrayFormat,
    ArrayTable,
    labels_of,
    require_array_output,
    write_arrays,
)
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.streams import StreamSet
from rellm_cache.inference.responders import SpeechResponder
from rellm_cache.runs.provenance import run_cache
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import adapter_digest, load_info, run_recipe
from rellm_cache.utils.console import progress

CHUNK = 256  # utterances whose embeddings are in memory at a time
FLOAT32 = np.dtype(np.float32)
Row = tuple[np.ndarray, ...]  # pooled (P,), and states (T', H) if asked for


def embed(
    run: Path,
    manifest: Path,
    out: Path,
    cache: Path | None = None,
    kind: ArrayFormat = "parquet",
    states: bool = False,
    batch_size: int = 16,
) -> int:
    """Write the embeddings of every utterance, with its labels; return the number of utterances.

    Args:
        manifest: manifest file or folder; its clips must be in the cache.
        cache: root of the stores; None for the cache that the run was trained from.
        kind: format of `out`.
        states: also write the adapter's states, about six vectors a second.

    Raises:
        RunError: `run` is not a finished run, or the cache that it was trained from is missing.
        ConfigError: the run reads text, or the library for the format is not installed.
        ManifestError, StoreError: the manifest cannot be read, or the cache lacks clips.
        RellmError: `out` exists, or cannot be written.
    """
    require_array_output(out, kind)
    utterances, recipe = read_manifests(manifest), run_recipe(run)
    cache = run_cache(run) if cache is None else cache
    resources = SharedModels()

    def load_streams(clips: Sequence[Utterance]) -> StreamSet:
        ids = [u.id for u in clips]
        return resources.run_streams(run, recipe, manifest, cache, ids)

    responder = SpeechResponder(run, None, load_streams)
    load_streams(utterances)
    with progress("Embedding", len(utterances), "clips") as tick:

        def rows() -> Iterator[Row]:
            for start in range(0, len(utterances), CHUNK):
                part = utterances[start : start + CHUNK]
                for pooled, own in _embeddings(responder, part, batch_size):
                    yield (pooled, own) if states else (pooled,)
                    tick()

        found = rows()
        first = next(found)  # its shapes are those of all
        columns = [ArrayColumn("pooled", len(first[0]), FLOAT32, is_sequence=False)]
        if states:
            columns.append(ArrayColumn("states", first[1].shape[1], FLOAT32, is_sequence=True))
        write_arrays(
            out,
            kind,
            ArrayTable(
                labels=[labels_of(u) for u in utterances],
                columns=columns,
                lengths=responder.state_lengths(utterances),
                rows=chain([first], found),
                about={
                    "recipe": recipe.name,
                    "weights_sha256": adapter_digest(run),
                    "licences": load_info(run).licences,
                },
            ),
        )
    return len(utterances)


def _embeddings(
    responder: SpeechResponder, utterances: Sequence[Utterance], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pooled vector (P,) and states (T', H) of each utterance, in their order."""
    found = responder.embed(utterances, batch_size)
    for utterance in utterances:
        states, pooled = found[utterance.id]
        yield pooled.numpy(), states.numpy()
