"""Fingerprints of a run's answers and labels: digests of everything that they depend on.

A fingerprint is stored with each answer. It shows whether the answer is still up to date.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rellm_cache.config.recipes import identity_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.inference.responders import LoadStreams, make_readings
from rellm_cache.llm.loading import llm_identity, with_text_files
from rellm_cache.runs.weights import adapter_digest

DIGITS = 12  # hex digits of a digest in a row


def answer_fingerprints(
    run: Path,
    recipe: Recipe,
    utterances: Sequence[Utterance],
    cache: Path,
    load_streams: LoadStreams | None,
) -> dict[str, str]:
    """Utterance id → digest, in 12 hex digits, of the recipe with its overrides, the trained
    weights, the LLM, and the model's input; after a "+", of the LLM's tokenizer and template.

    Args:
        load_streams: loads the frames in the cache; None if the audio is encoded live.

    Raises:
        RunError: `run` is not a finished run.
        ConfigError: a file is missing in the LLM's folder.
        ManifestError: a text model's utterance has no transcript.
        StoreError: the cache lacks clips.
        AudioError: audio that is encoded live cannot be read.
    """
    weights = ""  # a text model has no weights of its own
    inputs: list[object]
    if recipe.text is not None:
        inputs = [asdict(reading) for reading in make_readings(utterances, recipe, cache)]
    else:
        weights = adapter_digest(run)
        if load_streams is not None:
            streams = load_streams(utterances)
            inputs = [streams.audio_sha256(u.id) for u in utterances]
        else:
            inputs = [audio_digest(u).tobytes().hex() for u in utterances]
    llm = llm_identity(recipe.used_llm) if recipe.used_llm else {}
    model = digest([identity_toml(recipe), weights, llm])
    texts = with_text_files("", recipe.used_llm) if recipe.used_llm else ""
    return {
        u.id: digest([model, i])[:DIGITS] + texts for u, i in zip(utterances, inputs, strict=True)
    }
