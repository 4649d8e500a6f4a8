"""Responders: models that answer utterances and name their emotions, from speech or from text.

`SpeechResponder` is a trained speech LLM. `TextResponder` is the frozen LLM of a recipe with
`[text]`, which reads transcripts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.config.schema import PromptsConfig, Recipe
from rellm_cache.config.toml import Changes
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.speed_copies import speed_copies
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.examples import make_examples
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ManifestError
from rellm_cache.inference.emotion_recognition import (
    LABEL_TOKENS,
    Label,
    label_speech,
    label_texts,
)
from rellm_cache.inference.recognition_requests import (
    Requests,
    empty_likelihoods,
    speech_likelihoods,
    text_likelihoods,
)
from rellm_cache.llm.decoding import Continuation, Sampling, Watch
from rellm_cache.llm.frozen import FrozenLLM, require_llm
from rellm_cache.llm.prompts import around_speech
from rellm_cache.llm.sentence_limit import ReplyLimit
from rellm_cache.model.conversation import Reply, ReplySettings, Turn, reply_to
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.model.text_llm import Reading, TextLLM
from rellm_cache.runs.provenance import has_trained_dimensions
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import load_adapter, load_run
from rellm_cache.store.transcripts import read_transcripts
from rellm_cache.training.label_check import too_long
from rellm_cache.training.validation import Predictions, predict
from rellm_cache.utils.console import counted
from rellm_cache.utils.devices import default_device

LoadStreams = Callable[[Sequence[Utterance]], StreamSet]


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        text: transcript of the utterance, if known; a speech LLM is not given it.
        early_stop: whether the token limit cut the answer (not the recipe's sentence limit).
        emotion: emotion by the category head; None for a text model.
        emotion_probabilities: emotion → probability by the category head.
        dimensions: arousal, dominance, valence by the dimension head, or None.
    """

    id: str
    audio: str
    text: str
    response: str
    early_stop: bool
    emotion: str | None = None
    emotion_probabilities: dict[str, float] = field(default_factory=dict)
    dimensions: dict[str, float] | None = None


@dataclass(frozen=True)
class Recognition:
    """What the heads of a run tell about one clip.

    Attributes:
        emotion: the likeliest emotion, by the category head.
        probabilities: emotion → probability; they sum to 1.
        dimensions: arousal, dominance, valence, each about 0..1, or None without that head.

    Example:
        >>> import rellm_cache as rellm
        >>> found: rellm.Recognition = rellm.load_run("runs/heads").recognise("speech.wav")
        >>> found.probabilities[found.emotion] == max(found.probabilities.values())
        True
    """

    emotion: str
    probabilities: dict[str, float]
    dimensions: dict[str, float] | None


Result = TypeVar("Result", Generation, Recognition)


@dataclass(frozen=True)
class _Heard:
    """Outputs of adapter and heads for one clip, float32.

    Attributes:
        states: (T', H).
        pooled: (P,) what the heads read.
        logits: (C,) of the emotions.
        dimensions: (3,), or None without that head.
    """

    states: Tensor
    pooled: Tensor
    logits: Tensor
    dimensions: Tensor | None


class SpeechResponder:
    """The speech LLM of a trained run; `overrides` change its recipe's prompts.

    With `resources=None` the LLM is not loaded: the heads and the adapter alone can be used.
    """

    def __init__(
        self,
        run: Path,
        resources: SharedModels | None,
        load_streams: LoadStreams,
        overrides: Changes = (),
    ) -> None:
        self._device = default_device()
        if resources is None:
            self._recipe, self._model = load_adapter(run, self._device)
        else:
            self._recipe, self._model = load_run(run, self._device, resources.llm, overrides)
        self._load_streams = load_streams
        self._has_dimensions = has_trained_dimensions(run, self._recipe)

    def answers(self, utterances: Sequence[Utterance], batch_size: int) -> Iterator[Generation]:
        """Answer utterances, in batches of similar length; `ConfigError` if the run has no LLM."""
        require_llm(self._model.llm)
        batches = self._batches(utterances, batch_size)
        prompts = self._recipe.prompts
        return (
            generation
            for batch, members in batches
            for generation in self._with_trained(answer_batch(self._model, batch, members, prompts))
        )

    def labels(
        self, utterances: Sequence[Utterance], in_words: bool, batch_size: int
    ) -> Iterator[tuple[str, Label]]:
        """Ids and emotion labels by the LLM, in batches of similar length; errors as `answers`."""
        require_llm(self._model.llm)
        batches = self._batches(utterances, batch_size)
        return (
            pair
            for batch, _ in batches
            for pair in zip(batch.ids, label_speech(self._model, batch, in_words), strict=True)
        )

    def likelihoods(
        self, utterances: Sequence[Utterance], requests: Requests, batch_size: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Ids and log-likelihoods (W, O, C) of the labels; errors as `answers`."""
        require_llm(self._model.llm)
        prompts, batches = self._recipe.prompts, self._batches(utterances, batch_size)
        return (
            pair
            for batch, _ in batches
            for pair in zip(
                batch.ids, speech_likelihoods(self._model, batch, prompts, requests), strict=True
            )
        )

    def empty_likelihoods(self, requests: Requests) -> Tensor:
        """Log-likelihoods (W, O, C) of the labels without speech."""
        return empty_likelihoods(self._model, self._recipe.prompts, requests)

    @torch.inference_mode()
    def recognize(
        self,
        utterances: Sequence[Utterance],
        batch_size: int,
        copies: Sequence[tuple[int, Utterance]] = (),
    ) -> list[Recognition]:
        """Recognition of each utterance by the heads, averaged over its copies.

        Args:
            copies: of utterances at other speeds, each with the place of its original.
        """
        originals = {u.id: place for place, u in enumerate(utterances)}
        place_of = originals | {copy.id: place for place, copy in copies}
        by_place: list[list[_Heard]] = [[] for _ in utterances]
        for name, heard in self._hear([*utterances, *(copy for _, copy in copies)], batch_size):
            by_place[place_of[name]].append(heard)
        return self._recognitions(by_place)

    @torch.inference_mode()
    def hear(
        self, utterance: Utterance, copies: Sequence[Utterance] = ()
    ) -> tuple[Recognition, Tensor]:
        """Recognition of one utterance, as `recognize` gives it, and its states (T', H) float32."""
        heard = dict(self._hear([utterance, *copies], batch_size=1))
        (recognition,) = self._recognitions([list(heard.values())])
        return recognition, heard[utterance.id].states

    @torch.inference_mode()
    def embed(
        self, utterances: Sequence[Utterance], batch_size: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Utterance id → states (T', H) and pooled vector (P,), both float32."""
        return {n: (h.states, h.pooled) for n, h in self._hear(utterances, batch_size)}

    def _hear(
        self, utterances: Sequence[Utterance], batch_size: int
    ) -> Iterator[tuple[str, _Heard]]:
        """Ids and outputs of adapter and heads, in batches of similar length."""
        for batch, _ in self._batches(utterances, batch_size):
            speech = self._model.speech(batch)
            pooled = self._model.pooled(speech)
            logits, dimensions = self._model.heads(pooled)
            for index, name in enumerate(batch.ids):
                yield (
                    name,
                    _Heard(
                        states=speech.one(index).float().cpu(),
                        pooled=pooled[index].float().cpu(),
                        logits=logits[index].float(),
                        dimensions=None if dimensions is None else dimensions[index].float(),
                    ),
                )

    def _recognitions(self, by_place: Sequence[Sequence[_Heard]]) -> list[Recognition]:
        """Recognition of each utterance, averaged over what was heard of it."""
        means = [torch.stack([h.logits for h in one]).mean(0) for one in by_place]
        vads = None
        if self._model.heads.dimensions is not None:
            known = [[h.dimensions for h in one if h.dimensions is not None] for one in by_place]
            vads = torch.stack([torch.stack(one).mean(0) for one in known])
        found = recognitions(self._model.emotions, torch.stack(means), vads)
        return self._with_trained(found)

    @property
    def llm(self) -> FrozenLLM | None:
        """The LLM; None for a run that only recognizes."""
        return self._model.llm

    def spoken_turn(self, states: Tensor, question: str = "") -> Turn:
        """The user's turn with speech, given its states (T', H): as in `answers`.

        A question in text follows the speech as in the training of questions (`qa.prompt`).
        """
        template, values = self._recipe.prompts.answer, {}
        if question:
            template, values = self._recipe.qa.prompt, {"question": question}
        return Turn(around_speech(template, **values), (states.to(self._device),))

    def state_lengths(self, utterances: Sequence[Utterance]) -> NDArray[np.int64]:
        """(N,) numbers of states T' of utterances."""
        lengths = self._load_streams(utterances).lengths([u.id for u in utterances])
        counts = self._model.adapter.output_lengths(torch.tensor(lengths))
        return np.asarray(counts, np.int64)

    def heads(self, utterances: Sequence[Utterance], limits: ClipLimits) -> Predictions:
        """Emotions and dimensions by the heads, and the losses, in the utterances' order.

        Args:
            limits: of the utterances' manifest, by which copies at other speeds are left out.
        """
        examples = make_examples(utterances, self._recipe, self._model.llm)
        copies = speed_copies(utterances, self._recipe.heads.speed_copies, limits)
        heard = [(place, Example(copy.id)) for place, copy in copies]
        streams = self._load_streams([*utterances, *(copy for _, copy in copies)])
        found = predict(self._model, examples, streams, self._device, heard)
        return found if self._has_dimensions else replace(found, dimensions=None)

    def _with_trained(self, found: list[Result]) -> list[Result]:
        """Results without the numbers of a dimension head that was never trained."""
        if self._has_dimensions:
            return found
        return [replace(result, dimensions=None) for result in found]

    def too_long(self, utterances: Sequence[Utterance]) -> dict[str, str]:
        """Utterance id → why it is too long for the LLM, for those that are."""
        examples = make_examples(utterances, self._recipe, self._model.llm)
        answers = {"answer": self._recipe.prompts.answer_tokens, "emotion_lm": LABEL_TOKENS}
        return dict(too_long(examples, self._load_streams(utterances), self._model, answers))

    def _batches(
        self, utterances: Sequence[Utterance], batch_size: int
    ) -> Iterator[tuple[Batch, list[Utterance]]]:
        streams = self._load_streams(utterances)
        loader = BatchLoader([Example(u.id) for u in utterances], streams, self._device)
        plan = ordered_batches(loader.lengths, batch_size)
        return (
            (batch.to(self._device), [utterances[i] for i in indices])
            for indices, batch in zip(plan, loader.batches(plan, reuse_memory=True), strict=True)
        )


def answer_batch(
    model: SpeechLLM, batch: Batch, utterances: Sequence[Utterance], prompts: PromptsConfig
) -> list[Generation]:
    """Answer the utterances of one batch, in its order."""
    with torch.inference_mode():
        speech = model.speech(batch)
        found = recognitions(model.emotions, *model.heads(model.pooled(speech)))
        replies = model.answers(speech, "answer", prompts.answer_tokens, _reply_limit(prompts))
    return [
        _generation(
            utterance,
            reply,
            emotion=one.emotion,
            emotion_probabilities=one.probabilities,
            dimensions=one.dimensions,
        )
        for utterance, reply, one in zip(utterances, replies, found, strict=True)
    ]


def recognitions(
    names: tuple[str, ...], logits: Tensor, dimensions: Tensor | None
) -> list[Recognition]:
    """Recognition of each utterance from the outputs of the heads, (B, C) and (B, 3) or None."""
    probabilities = logits.float().softmax(1).tolist()
    values = [None] * len(probabilities) if dimensions is None else dimensions.float().tolist()
    return [
        Recognition(
            emotion=names[int(np.argmax(shares))],
            probabilities=dict(zip(names, shares, strict=True)),
            dimensions=None if vad is None else dict(zip(DIMENSIONS, vad, strict=True)),
        )
        for shares, vad in zip(probabilities, values, strict=True)
    ]


class TextResponder:
    """The frozen LLM of a recipe with `[text]`."""

    def __init__(self, recipe: Recipe, cache: Path, resources: SharedModels) -> None:
        self._recipe = recipe
        self._model = TextLLM(
            resources.llm(recipe.require_llm(), default_device()),
            recipe.prompts,
            recipe.heads.emotions,
        )
        self._cache = cache

    def answers(self, utterances: Sequence[Utterance], batch_size: int) -> Iterator[Generation]:
        """Answer texts, equal texts once; `ManifestError` if an utterance has no text."""
        prompts = self._recipe.prompts
        for batch, owners in self._batches(utterances, batch_size):
            replies = self._model.answers(batch, prompts.answer_tokens, _reply_limit(prompts))
            for same, reply in zip(owners, replies, strict=True):
                yield from (_generation(utterance, reply) for utterance in same)

    @property
    def llm(self) -> FrozenLLM:
        """The LLM."""
        return self._model.llm

    def spoken_turn(self, transcript: str, question: str = "") -> Turn:
        """The user's turn with a transcript in the place of speech: as in `answers`."""
        if not question:
            return Turn((self._model.request(Reading(transcript)),))
        before, after = around_speech(self._recipe.qa.prompt, question=question)
        return Turn((f"{before}{transcript}{after}",))

    def labels(
        self, utterances: Sequence[Utterance], in_words: bool, batch_size: int
    ) -> Iterator[tuple[str, Label]]:
        """Ids and emotion labels by the LLM, equal transcripts once; errors as `answers`."""
        for batch, owners in self._batches(utterances, batch_size):
            for same, label in zip(owners, label_texts(self._model, batch, in_words), strict=True):
                yield from ((utterance.id, label) for utterance in same)

    def too_long(self, utterances: Sequence[Utterance]) -> dict[str, str]:
        """Utterance id → why its text is too long for the LLM, for those whose text is."""
        found = make_readings(utterances, self._recipe, self._cache)
        tokens = self._recipe.prompts.answer_tokens
        fits = {reading: self._model.fits(reading, tokens) for reading in set(found)}
        reason = f"its transcript is too long for {self._model.llm.config.model}"
        return {
            u.id: reason for u, reading in zip(utterances, found, strict=True) if not fits[reading]
        }

    def likelihoods(
        self, utterances: Sequence[Utterance], requests: Requests, batch_size: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Ids and log-likelihoods (W, O, C) of the labels, equal transcripts once."""
        for batch, owners in self._batches(utterances, batch_size):
            found = text_likelihoods(self._model, batch, requests)
            for same, values in zip(owners, found, strict=True):
                yield from ((utterance.id, values) for utterance in same)

    def empty_likelihoods(self, requests: Requests) -> Tensor:
        """Log-likelihoods (W, O, C) of the labels without a transcript."""
        return empty_likelihoods(self._model, self._recipe.prompts, requests)

    def _batches(
        self, utterances: Sequence[Utterance], batch_size: int
    ) -> Iterator[tuple[list[Reading], list[list[Utterance]]]]:
        """Distinct readings in batches of similar length, each with the utterances that have it."""
        owners: dict[Reading, list[Utterance]] = {}
        found = make_readings(utterances, self._recipe, self._cache)
        if long := [*self.too_long(utterances)]:
            raise ManifestError(
                f"{counted(len(long), 'transcript is', 'transcripts are')} too long for "
                f"{self._model.llm.config.model}, the first is that of {long[0]!r}; cut them, or "
                "leave these clips out"
            )
        for utterance, reading in zip(utterances, found, strict=True):
            owners.setdefault(reading, []).append(utterance)
        distinct = sorted(owners, key=lambda reading: len(reading.transcript))
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            yield batch, [owners[reading] for reading in batch]


def reply(
    responder: SpeechResponder | TextResponder,
    prompts: PromptsConfig,
    turns: Sequence[Turn],
    system: str | None = None,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    watch: Watch | None = None,
) -> Reply:
    """The next turn of a conversation, with the limits of `answers`.

    Args:
        turns: of user and model in turn; the first and the last are the user's.
        system: the system text; None for `prompts.empathetic_system`.
        max_new_tokens: None for `prompts.answer_tokens`.
        watch: is called after each token with the text so far.

    Raises:
        ConfigError: the run has no LLM.
        ConversationLengthError: the conversation is longer than the LLM supports.
    """
    settings = ReplySettings(
        prompts.answer_tokens if max_new_tokens is None else max_new_tokens,
        _reply_limit(prompts),
        sampling,
    )
    text = prompts.empathetic_system if system is None else system
    return reply_to(require_llm(responder.llm), text, turns, settings, watch)


def make_readings(utterances: Sequence[Utterance], recipe: Recipe, cache: Path) -> list[Reading]:
    """Make the input of a text model for each utterance. Whisper transcripts may be empty.

    Raises:
        ManifestError: an utterance has no transcript in the manifest, or no emotion although
            the recipe gives it to the model.
        StoreError: the cache lacks transcripts.
    """
    text = recipe.require_text()
    if text.transcript == "whisper":
        transcripts = read_transcripts(utterances, recipe.require_transcriber(), cache)
    else:
        transcripts = {u.id: u.text for u in utterances}
        _require(recipe.name, "transcript (text)", utterances, lambda u: bool(u.text.strip()))
    if text.gold_emotion:
        _require(recipe.name, "emotion", utterances, lambda u: bool(u.emotion))
    return [
        Reading(transcripts[u.id], u.emotion if text.gold_emotion else None) for u in utterances
    ]


def load_responder(
    run: Path,
    recipe: Recipe,
    cache: Path,
    load_streams: LoadStreams,
    resources: SharedModels,
    overrides: Changes = (),
) -> SpeechResponder | TextResponder:
    """Load the responder of a run; `recipe` already has the `overrides`."""
    if recipe.text is not None:
        return TextResponder(recipe, cache, resources)
    return SpeechResponder(run, resources, load_streams, overrides)


def _require(
    recipe: str, name: str, utterances: Sequence[Utterance], has: Callable[[Utterance], bool]
) -> None:
    missing = [u.id for u in utterances if not has(u)]
    if missing:
        raise ManifestError(
            f"recipe {recipe!r} reads each utterance's {name}, but {len(missing)} of "
            f"{len(utterances)} utterances have none, the first is {missing[0]!r}"
        )


def _reply_limit(prompts: PromptsConfig) -> ReplyLimit:
    return ReplyLimit(prompts.answer_sentences, prompts.stop_after_question)


def _generation(utterance: Utterance, reply: Continuation, **by_heads: Any) -> Generation:
    return Generation(
        id=utterance.id,
        audio=utterance.audio,
        text=utterance.text,
        response=reply.text,
        early_stop=reply.early_stop,
        **by_heads,
    )
