"""Emotions as the LLM names them. In: a model and utterances. Out: a label each, and their scores.

It is asked with the paper's prompt, in two ways: which label is the likeliest answer, and which
label a greedy answer names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.batches import Example, Frames, ordered_batches
from rellm_cache.corpus.emotions import find_emotion
from rellm_cache.loading.loader import BatchLoader
from rellm_cache.metrics.recognition import RecognitionScores
from rellm_cache.model.requests import require_llm
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.model.text_llm import Reading, TextLLM
from rellm_cache.progress import progress
from rellm_cache.stages.data import label_ids
from rellm_cache.stages.scoring import HeadScores, score_labelled

BATCH = 16
LABEL_TOKENS = 12  # enough for "The emotion tone is surprise."
NO_LABEL = -1  # an answer that names no emotion


@dataclass(frozen=True)
class LLMLabels:
    """What the LLM calls each utterance's emotion, as indices into the recipe's emotions.

    Attributes:
        likely: (N,) int64 the likeliest label.
        named: (N,) int64 the first label a greedy answer names, `NO_LABEL` for none; None where
            no answer was asked for.
    """

    likely: NDArray[np.int64]
    named: NDArray[np.int64] | None


@dataclass(frozen=True)
class LLMScores:
    """Recognition by the LLM.

    Attributes:
        likelihood: the label whose tokens are likeliest as the answer.
        generation: the first label named in a greedy answer; None where none was asked for.
        unparsable: share of greedy answers that name none.
    """

    likelihood: RecognitionScores
    generation: RecognitionScores | None
    unparsable: float | None


@dataclass(frozen=True)
class Judgement:
    """What a model says of utterances' emotions, and how right it is.

    Attributes:
        head: (N,) int64 the category head's choice; None where the model has no heads.
        dimensions: (N, 3) float32 arousal, dominance, valence by the dimension head, or None.
        llm: the LLM's, or None where it was not asked.
        head_scores: of the auxiliary heads.
        losses: mean of each loss.
    """

    head: NDArray[np.int64] | None
    dimensions: NDArray[np.float32] | None
    llm: LLMLabels | None
    head_scores: HeadScores
    losses: dict[str, float]


@torch.inference_mode()
def recognise_speech(
    model: SpeechLLM,
    examples: Sequence[Example],
    frames: Frames,
    device: torch.device,
    in_words: bool,
) -> LLMLabels:
    """Labels of utterances that the LLM hears, in the examples' order."""
    labels = label_ids(model.recipe, require_llm(model.llm))
    likely = np.zeros(len(examples), np.int64)
    named = np.zeros(len(examples), np.int64)
    loader = BatchLoader(examples, frames, device)
    plan = ordered_batches(loader.lengths, BATCH)
    with progress("Recognising", len(examples), "clips") as tick:
        for indices, batch in zip(plan, loader.batches(plan), strict=True):
            speech = model.speech(batch.to(device))
            likely[indices] = model.label_log_likelihoods(speech, labels).argmax(1).cpu().numpy()
            if in_words:
                replies = model.answers(speech, "recognition", LABEL_TOKENS)
                texts = [reply.text for reply in replies]
                named[indices] = _find_labels(texts, model.recipe.heads.emotions)
            tick(len(indices))
    return LLMLabels(likely, named if in_words else None)


@torch.inference_mode()
def recognise_text(model: TextLLM, readings: Sequence[Reading], in_words: bool) -> LLMLabels:
    """Labels of utterances that the LLM reads, equal transcripts asked about once."""
    labels = label_ids(model.recipe, model.llm)
    distinct = list(dict.fromkeys(Reading(reading.transcript) for reading in readings))
    likely: list[int] = []
    named: list[int] = []
    with progress("Recognising", len(distinct), "transcripts") as tick:
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            likely += model.label_log_likelihoods(batch, labels).argmax(1).tolist()
            if in_words:
                texts = model.labels_in_words(batch, LABEL_TOKENS)
                named += _find_labels(texts, model.recipe.heads.emotions)
            tick(len(batch))
    place = {reading.transcript: index for index, reading in enumerate(distinct)}
    places = [place[reading.transcript] for reading in readings]
    words = np.array(named, np.int64)[places] if in_words else None
    return LLMLabels(np.array(likely, np.int64)[places], words)


def _find_labels(replies: Sequence[str], names: tuple[str, ...]) -> list[int]:
    """Index of the emotion that each reply names, or `NO_LABEL`."""
    found = [find_emotion(reply, names) for reply in replies]
    return [NO_LABEL if name is None else names.index(name) for name in found]


def score_labels(
    labels: LLMLabels, true: NDArray[np.int64], names: tuple[str, ...]
) -> LLMScores | None:
    """Scores over the utterances that have an emotion; None if none has."""
    likelihood = score_labelled(true, labels.likely, names)
    if likelihood is None:
        return None
    if labels.named is None:
        return LLMScores(likelihood, None, None)
    unparsable = float((labels.named == NO_LABEL).mean())
    return LLMScores(likelihood, score_labelled(true, labels.named, names), unparsable)
