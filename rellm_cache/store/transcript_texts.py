"""What clips say by a transcriber. In: utterances and a cache. Out: texts by id."""

from collections.abc import Sequence
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.remote.mirror_origin import place
from rellm_cache.store.transcripts import find_transcripts, read_transcripts_file


def transcriber_spec(recipe: Recipe) -> TranscriberSpec:
    """The transcriber of a recipe; `ConfigError` if it has none."""
    if recipe.transcriber is None:
        raise ConfigError(
            f"recipe {recipe.name!r} has no [transcriber] table, so no model writes down what is "
            "said; add one, or --set transcriber.model=openai/whisper-tiny.en"
        )
    return recipe.transcriber


def read_transcripts(
    utterances: Sequence[Utterance], spec: TranscriberSpec, cache: Path
) -> dict[str, str]:
    """Id → what the clip says, for every utterance. Texts may be empty: nothing was heard.

    Raises:
        StoreError: the cache has no such transcripts, not of all utterances, or they are damaged.
    """
    path = find_transcripts(cache, spec)
    known = read_transcripts_file(path)
    missing = [u.id for u in utterances if u.id not in known]
    if missing:
        raise StoreError(
            f"{place(path)}: {len(missing)} of {len(utterances)} utterances have no transcript, "
            f"the first is {missing[0]!r}; add them with `{spec.command} MANIFEST --recipe RECIPE "
            f"--cache {place(cache)}`"
        )
    return {u.id: known[u.id].text for u in utterances}
