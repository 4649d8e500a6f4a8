"""Scores of an evaluation: recognition by heads and LLM, CCC with intervals, empathy, losses."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import Example
from rellm_cache.data.examples import emotion_index
from rellm_cache.evaluation.empathy import EmpathyScores
from rellm_cache.evaluation.predictions import KL, EmotionPredictions
from rellm_cache.inference.emotion_recognition import LLMScores, score_labels
from rellm_cache.inference.recognition_requests import score_requests
from rellm_cache.metrics.classification import RecognitionScores
from rellm_cache.metrics.correlation import concordance_interval
from rellm_cache.runs.provenance import DataSummary
from rellm_cache.training.validation import HeadScores, score_heads


@dataclass(frozen=True)
class Scores:
    """All scores of one evaluation, and a summary of its data.

    Attributes:
        ccc_intervals: dimension → limits of the CCC's 95 % bootstrap interval over clips; NaN if
            the CCC is undefined.
        layer_weights: stream → number of a layer → its learned weight; empty without such weights.
    """

    data: DataSummary
    head: HeadScores
    ccc_intervals: dict[str, tuple[float, float]]
    llm: LLMScores | None
    empathy: EmpathyScores | None
    losses: dict[str, float]
    layer_weights: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def clips(self) -> int:
        """Number of clips."""
        return self.data.clips

    def to_json(self) -> dict[str, Any]:
        """Content of `scores.json` and of `evaluate --json`; a score without a value is null."""
        return {
            "clips": self.clips,
            "data": dataclasses.asdict(self.data),
            "head": {
                **_as_json(self.head.recognition),
                **({} if self.head.kl is None else {"kl": self.head.kl}),
                "ccc": {name: _or_null(value) for name, value in self.head.ccc.items()},
                "ccc_intervals": {
                    name: [_or_null(low), _or_null(high)]
                    for name, (low, high) in self.ccc_intervals.items()
                },
            },
            "llm": None
            if self.llm is None
            else {
                **_as_json(self.llm.likelihood),
                "generation": _as_json(self.llm.generation) or None,
                "unparsable": self.llm.unparsable,
                "requests": None
                if self.llm.requests is None
                else dataclasses.asdict(self.llm.requests),
            },
            "empathy": None if self.empathy is None else dataclasses.asdict(self.empathy),
            "losses": {name: _or_null(value) for name, value in self.losses.items()},
            **({"layer_weights": self.layer_weights} if self.layer_weights else {}),
        }


def _as_json(scores: RecognitionScores | None) -> dict[str, Any]:
    if scores is None:
        return {}
    interval = scores.ua_interval
    return {**dataclasses.asdict(scores), "ua_interval": [interval.low, interval.high]}


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def make_scores(
    data: DataSummary,
    utterances: Sequence[Utterance],
    predictions: EmotionPredictions,
    names: tuple[str, ...],
    empathy: EmpathyScores | None,
) -> Scores:
    """Score predictions against the labels of utterances; `names` are the recipe's emotions."""
    examples = [Example(u.id, emotion_index(u, names), u.vad) for u in utterances]
    true = np.array([example.emotion for example in examples])  # (N,)
    head, llm = HeadScores(None, {}), None
    if predictions.head is not None:
        chosen = np.array([names.index(name) for name in predictions.head], np.int64)
        head = score_heads(chosen, predictions.dimensions, examples, names)
        head = dataclasses.replace(head, kl=predictions.losses.get(KL))
    if predictions.llm is not None:
        requests = None
        if predictions.likelihoods is not None:
            requests = score_requests(predictions.likelihoods, true, names)
        llm = score_labels(predictions.llm, true, names, predictions.in_words, requests)
    intervals = ccc_intervals(utterances, predictions.dimensions) if head.ccc else {}
    losses = {name: value for name, value in predictions.losses.items() if name != KL}
    return Scores(data, head, intervals, llm, empathy, losses)


def ccc_intervals(
    utterances: Sequence[Utterance], dimensions: NDArray[np.float32] | None
) -> dict[str, tuple[float, float]]:
    """Interval of each dimension's CCC over clips that have dimensions; predictions (N, 3)."""
    if dimensions is None:
        return {}
    rows = [i for i, utterance in enumerate(utterances) if utterance.vad is not None]
    true = np.array([utterances[i].vad for i in rows])  # (n, 3)
    predicted = dimensions[rows].astype(np.float64)
    found = {}
    for column, name in enumerate(DIMENSIONS):
        interval = concordance_interval(true[:, column], predicted[:, column])
        found[name] = (interval.low, interval.high)
    return found
