"""What a run's words follow from. In: a run, utterances and their frames. Out: a digest each.

Whoever keeps what a model said keeps this beside it, and asks again where it is another.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.audio import audio_digest, read_bytes
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.examples import audio_digests
from rellm_cache.inference.responders import FramesOf, readings
from rellm_cache.llm.loading import llm_identity
from rellm_cache.runs.weights import trained_digest

DIGITS = 12  # of a digest, in hex, as rows have them


def answer_fingerprints(
    run: Path,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    cache: Path,
    cached: FramesOf | None,
) -> dict[str, str]:
    """What each answer follows from, by id, in 12 hex digits: the recipe as overridden, what was
    trained, the LLM, and what the model is given of the utterance.

    Args:
        cached: frames of a model that hears; None where it hears the audio itself.

    Raises:
        RunError: `run` is not a finished run.
        ConfigError: the LLM is a folder that misses a file.
        ManifestError: the run's model reads, and an utterance has no transcript.
        StoreError: clips are absent from the cache.
        AudioError: the model hears audio that cannot be read.
    """
    weights = ""  # a model that reads has none of its own
    given: list[object]
    if recipe.text is not None:
        given = [asdict(reading) for reading in readings(utterances, recipe, cache)]
    else:
        weights = trained_digest(run)
        if cached is not None:
            given = [*audio_digests(cached(recipe, utterances), [u.id for u in utterances])]
        else:
            given = [
                audio_digest(read_bytes(u.audio), u.segment).tobytes().hex() for u in utterances
            ]
    llm = llm_identity(recipe.llm) if recipe.llm and recipe.needs_llm else {}
    maker = digest([to_toml(recipe), weights, llm])
    return {u.id: digest([maker, g])[:DIGITS] for u, g in zip(utterances, given, strict=True)}
