"""Models that read. In: a run of a recipe with `[text]`, utterances. Out: transcripts, answers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rellm_cache.annotation.responses import llm_config
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ManifestError
from rellm_cache.inference.answering import Generation
from rellm_cache.inference.emotion import Label, label_texts
from rellm_cache.llm.generation import Continuation
from rellm_cache.llm.reply_limit import ReplyLimit
from rellm_cache.model.text_llm import Reading, TextLLM, text_config
from rellm_cache.runs.shared_models import Resources
from rellm_cache.store.transcripts import read_transcripts, transcriber_spec
from rellm_cache.utils.devices import default_device


def readings(utterances: Sequence[Utterance], recipe: Recipe, cache: Path) -> list[Reading]:
    """What a text model is given of each utterance. What Whisper wrote down may be empty.

    Raises:
        ManifestError: an utterance has no transcript of the corpus, or no emotion where the recipe
            gives it.
        StoreError: the cache lacks transcripts.
    """
    text = text_config(recipe)
    if text.transcript == "whisper":
        heard = read_transcripts(utterances, transcriber_spec(recipe), cache)
    else:
        heard = {u.id: u.text for u in utterances}
        _require(recipe, "transcript (text)", utterances, lambda u: bool(u.text.strip()))
    if text.label:
        _require(recipe, "emotion", utterances, lambda u: bool(u.emotion))
    return [Reading(heard[u.id], u.emotion if text.label else None) for u in utterances]


def _require(
    recipe: Recipe, name: str, utterances: Sequence[Utterance], has: Callable[[Utterance], bool]
) -> None:
    missing = [u.id for u in utterances if not has(u)]
    if missing:
        raise ManifestError(
            f"recipe {recipe.name!r} reads each utterance's {name}, which {len(missing)} of "
            f"{len(utterances)} do not have, the first is {missing[0]!r}"
        )


class Reader:
    """The model of a recipe with `[text]`.

    Attributes:
        recipe: of its run, with what was overridden.
    """

    def __init__(self, recipe: Recipe, cache: Path, resources: Resources) -> None:
        self.recipe = recipe
        self._model = TextLLM(recipe, resources.llm(llm_config(recipe), default_device()))
        self._cache = cache

    def answers(self, utterances: Sequence[Utterance], batch_size: int) -> Iterator[Generation]:
        """Answers to utterances as text, equal requests asked once: not in the utterances' order.

        Raises:
            ManifestError: an utterance has nothing to read.
        """
        prompts = self.recipe.prompts
        limit = ReplyLimit(prompts.answer_sentences, prompts.stop_after_question)
        for batch, alike in self._batches(utterances, batch_size):
            found = self._model.answers(batch, prompts.answer_tokens, limit)
            for same, answer in zip(alike, found, strict=True):
                yield from (_generation(utterance, answer) for utterance in same)

    def labels(
        self, utterances: Sequence[Utterance], in_words: bool, batch_size: int
    ) -> Iterator[tuple[str, Label]]:
        """Id and label by the LLM, equal transcripts asked about once: not in their order.

        Raises:
            ManifestError: an utterance has nothing to read.
        """
        for batch, alike in self._batches(utterances, batch_size):
            found = label_texts(self._model, batch, in_words)
            for same, label in zip(alike, found, strict=True):
                yield from ((utterance.id, label) for utterance in same)

    def _batches(
        self, utterances: Sequence[Utterance], batch_size: int
    ) -> Iterator[tuple[list[Reading], list[list[Utterance]]]]:
        """What is read, each once and those of like length together, and whose it is."""
        by_reading: dict[Reading, list[Utterance]] = {}
        found = readings(utterances, self.recipe, self._cache)
        for utterance, reading in zip(utterances, found, strict=True):
            by_reading.setdefault(reading, []).append(utterance)
        distinct = sorted(by_reading, key=lambda reading: len(reading.transcript))
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            yield batch, [by_reading[reading] for reading in batch]


def _generation(utterance: Utterance, answer: Continuation) -> Generation:
    return Generation(
        id=utterance.id,
        audio=utterance.audio,
        text=utterance.text,
        response=answer.text,
        early_stop=answer.early_stop,
        emotion=None,
        emotion_probabilities={},
        dimensions=None,
    )
