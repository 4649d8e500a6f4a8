"""Emotion recognition by the LLM with the paper's prompt, and its scores.

The LLM's label is found in two ways: the label with the highest likelihood as an answer, and the
label that its greedy answer names. `recognition_requests` averages over several wordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.corpus.emotions import find_emotion
from rellm_cache.data.batch import Batch
from rellm_cache.data.examples import label_ids
from rellm_cache.inference.recognition_requests import RequestScores
from rellm_cache.llm.frozen import require_llm
from rellm_cache.metrics.classification import RecognitionScores
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.model.text_llm import Reading, TextLLM
from rellm_cache.training.validation import score_labelled

LABEL_TOKENS = 12  # enough for "The emotion tone is surprise."
NO_LABEL = -1  # an answer that names no emotion


@dataclass(frozen=True)
class Label:
    """The LLM's emotion label of one utterance, one of the recipe's emotions.

    Attributes:
        named: the first label in the greedy answer; None if there is no label or no answer.
    """

    likely: str
    named: str | None


@dataclass(frozen=True)
class LLMScores:
    """Scores of the likeliest labels, and of those named in greedy answers, if there are any.

    Attributes:
        unparsable: share of greedy answers that name no emotion.
        requests: UA by request, if there are several or they are calibrated.
    """

    likelihood: RecognitionScores
    generation: RecognitionScores | None
    unparsable: float | None
    requests: RequestScores | None = None


@torch.inference_mode()
def label_speech(model: SpeechLLM, batch: Batch, in_words: bool) -> list[Label]:
    """Labels of utterances from their speech, in the batch's order."""
    names = model.emotions
    speech = model.speech(batch)
    likely = model.label_log_likelihoods(speech, label_ids(names, require_llm(model.llm)))
    replies = model.answers(speech, "emotion_lm", LABEL_TOKENS) if in_words else []
    return _labels(likely, [reply.text for reply in replies], names)


@torch.inference_mode()
def label_texts(model: TextLLM, readings: Sequence[Reading], in_words: bool) -> list[Label]:
    """Labels of utterances from their transcripts, in the order given."""
    names = model.emotions
    likely = model.label_log_likelihoods(readings, label_ids(names, model.llm))
    replies = model.labels_in_words(readings, LABEL_TOKENS) if in_words else []
    return _labels(likely, replies, names)


def _labels(likely: Tensor, replies: Sequence[str], names: tuple[str, ...]) -> list[Label]:
    likeliest = [names[index] for index in likely.argmax(1).tolist()]
    named = [find_emotion(reply, names) for reply in replies] or [None] * len(likeliest)
    return [Label(*pair) for pair in zip(likeliest, named, strict=True)]


def score_labels(
    labels: Sequence[Label],
    true: NDArray[np.int64],
    names: tuple[str, ...],
    in_words: bool,
    requests: RequestScores | None = None,
) -> LLMScores | None:
    """Scores of the utterances with a true emotion; None if there are none.

    Args:
        true: (N,) indices into `names`, `IGNORED` where there is no true emotion.
        requests: UA by request, for the result.
    """
    likely = np.array([names.index(label.likely) for label in labels], np.int64)
    likelihood = score_labelled(true, likely, names)
    if likelihood is None:
        return None
    if not in_words:
        return LLMScores(likelihood, None, None, requests)
    answers = [label.named for label in labels]
    named = np.array([NO_LABEL if n is None else names.index(n) for n in answers], np.int64)
    unparsable = float((named == NO_LABEL).mean())
    return LLMScores(likelihood, score_labelled(true, named, names), unparsable, requests)
