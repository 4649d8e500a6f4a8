"""Answers to speech. In: a model, utterances with their frames. Out: a `Generation` each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rellm_cache.annotation.responses import llm_config
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import DIMENSIONS, Utterance
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.examples import make_examples
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ManifestError
from rellm_cache.inference.emotion import Label, label_speech, label_texts
from rellm_cache.llm.generation import Continuation
from rellm_cache.llm.reply_limit import ReplyLimit
from rellm_cache.llm.speech_prompts import require_llm
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.model.text_llm import Reading, TextLLM, text_config
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import load_run
from rellm_cache.store.transcripts import read_transcripts, transcriber_spec
from rellm_cache.training.validation import Predictions, predict
from rellm_cache.utils.devices import default_device


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        id: of the utterance.
        audio: its file.
        text: its transcript, where known; a model that hears never sees it.
        response: what the LLM answers.
        early_stop: the token limit cut it; not so where the recipe's limit of sentences did.
        emotion: the category head's choice; None where the model only reads.
        emotion_probabilities: emotion → probability by the head.
        dimensions: arousal, dominance, valence by the head, or None.
    """

    id: str
    audio: str
    text: str
    response: str
    early_stop: bool
    emotion: str | None
    emotion_probabilities: dict[str, float]
    dimensions: dict[str, float] | None


def answer_batch(
    model: SpeechLLM, batch: Batch, utterances: Sequence[Utterance]
) -> list[Generation]:
    """Answers to the utterances of one batch, in its order."""
    recipe = model.recipe
    with torch.inference_mode():
        speech = model.speech(batch)
        logits, dimensions = model.heads(speech.embeddings, speech.lengths)
        probabilities = logits.float().softmax(1).tolist()
        limit = ReplyLimit(recipe.prompts.answer_sentences, recipe.prompts.stop_after_question)
        responses = model.answers(speech, "answer", recipe.prompts.answer_tokens, limit)
    values = [None] * len(responses) if dimensions is None else dimensions.float().tolist()
    names = recipe.heads.emotions
    return [
        Generation(
            id=utterance.id,
            audio=utterance.audio,
            text=utterance.text,
            response=response.text,
            early_stop=response.early_stop,
            emotion=names[int(np.argmax(shares))],
            emotion_probabilities=dict(zip(names, shares, strict=True)),
            dimensions=None if vad is None else dict(zip(DIMENSIONS, vad, strict=True)),
        )
        for utterance, response, shares, vad in zip(
            utterances, responses, probabilities, values, strict=True
        )
    ]


def answers(
    model: SpeechLLM,
    utterances: Sequence[Utterance],
    frames: StreamSet,
    batch_size: int,
    device: torch.device,
) -> Iterator[Generation]:
    """Answers to utterances, those of like length together: not in the utterances' order."""
    loader = BatchLoader([Example(u.id) for u in utterances], frames, device)
    plan = ordered_batches(loader.lengths, batch_size)
    for indices, batch in zip(plan, loader.batches(plan), strict=True):
        yield from answer_batch(model, batch.to(device), [utterances[i] for i in indices])


FramesOf = Callable[[Recipe, Sequence[Utterance]], StreamSet]


class SpeechResponder:
    """The model of a trained run.

    Attributes:
        recipe: the run's, with `overrides`.
    """

    def __init__(
        self, run: Path, resources: Resources, frames_of: FramesOf, overrides: Sequence[str] = ()
    ) -> None:
        self._device = default_device()
        self.recipe, self._model = load_run(run, self._device, resources.llm, overrides)
        self._frames_of = frames_of

    def answers(self, utterances: Sequence[Utterance], batch_size: int) -> Iterator[Generation]:
        """Answers to utterances, those of like length together: not in the utterances' order.

        Raises:
            ConfigError: the run has no LLM.
        """
        require_llm(self._model.llm)
        frames = self._frames_of(self.recipe, utterances)
        return answers(self._model, utterances, frames, batch_size, self._device)

    def labels(
        self, utterances: Sequence[Utterance], in_words: bool, batch_size: int
    ) -> Iterator[tuple[str, Label]]:
        """Id and label by the LLM, utterances of like length together: not in their order.

        Raises:
            ConfigError: the run has no LLM.
        """
        require_llm(self._model.llm)
        frames = self._frames_of(self.recipe, utterances)
        loader = BatchLoader([Example(u.id) for u in utterances], frames, self._device)
        for batch in loader.batches(ordered_batches(loader.lengths, batch_size)):
            labels = label_speech(self._model, batch.to(self._device), in_words)
            yield from zip(batch.ids, labels, strict=True)

    def heads(self, utterances: Sequence[Utterance]) -> Predictions:
        """Emotions and dimensions by the heads, and the losses, in the utterances' order."""
        frames = self._frames_of(self.recipe, utterances)
        examples = make_examples(utterances, self.recipe, self._model.llm)
        return predict(self._model, examples, frames, self._device)


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
    if text.gold_emotion:
        _require(recipe, "emotion", utterances, lambda u: bool(u.emotion))
    return [Reading(heard[u.id], u.emotion if text.gold_emotion else None) for u in utterances]


def _require(
    recipe: Recipe, name: str, utterances: Sequence[Utterance], has: Callable[[Utterance], bool]
) -> None:
    missing = [u.id for u in utterances if not has(u)]
    if missing:
        raise ManifestError(
            f"recipe {recipe.name!r} reads each utterance's {name}, which {len(missing)} of "
            f"{len(utterances)} do not have, the first is {missing[0]!r}"
        )


class TextResponder:
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
