"""The figures of an evaluation. In: what a run said of clips. Out: UA, CCC with intervals, empathy.

Figures are made anew each time from what was said: they follow from it alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import DIMENSIONS, Utterance
from rellm_cache.data.examples import make_examples
from rellm_cache.evaluation.empathy import EmpathyScores
from rellm_cache.inference.emotion import Label, LLMScores, score_labels
from rellm_cache.metrics.classification import RecognitionScores
from rellm_cache.metrics.regression import concordance_interval
from rellm_cache.runs.provenance import DataSummary
from rellm_cache.training.validation import HeadScores, score_heads


@dataclass(frozen=True)
class EmotionPredictions:
    """What a model says of utterances' emotions, in their order.

    Attributes:
        head: the category head's choice, by name; None where the model has no heads.
        dimensions: (N, 3) float32 arousal, dominance, valence by the dimension head, or None.
        llm: the LLM's labels, or None where it was not asked.
        in_words: it also answered in words.
        losses: mean of each loss.
    """

    head: list[str] | None
    dimensions: NDArray[np.float32] | None
    llm: list[Label] | None
    in_words: bool
    losses: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation, and the data they are of.

    Attributes:
        ccc_intervals: dimension → the ends of the CCC's 95 % bootstrap interval over clips; NaN,
            as the CCC itself, where it has no value.
    """

    data: DataSummary
    head: HeadScores
    ccc_intervals: dict[str, tuple[float, float]]
    llm: LLMScores | None
    empathy: EmpathyScores | None
    losses: dict[str, float]

    @property
    def clips(self) -> int:
        """That were scored."""
        return self.data.clips

    def to_json(self) -> dict[str, Any]:
        """As `evaluate --json` prints it: `head` and `llm` parts, each with `ua` and the rest.

        What has no value, as the CCC of a constant, is null.
        """
        return {
            "clips": self.clips,
            "data": dataclasses.asdict(self.data),
            "head": {
                **_plain(self.head.recognition),
                "ccc": {name: _known(value) for name, value in self.head.ccc.items()},
                "ccc_intervals": {
                    name: [_known(low), _known(high)]
                    for name, (low, high) in self.ccc_intervals.items()
                },
            },
            "llm": None
            if self.llm is None
            else {
                **_plain(self.llm.likelihood),
                "generation": _plain(self.llm.generation) or None,
                "unparsable": self.llm.unparsable,
            },
            "empathy": None if self.empathy is None else dataclasses.asdict(self.empathy),
            "losses": {name: _known(value) for name, value in self.losses.items()},
        }


def _plain(scores: RecognitionScores | None) -> dict[str, Any]:
    return {} if scores is None else dataclasses.asdict(scores)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def make_scores(
    data: DataSummary,
    utterances: Sequence[Utterance],
    predictions: EmotionPredictions,
    recipe: Recipe,
    empathy: EmpathyScores | None,
) -> Scores:
    """Compare what a run of `recipe` said with what utterances are."""
    names = recipe.heads.emotions
    examples = make_examples(utterances, recipe, None)
    true = np.array([example.emotion for example in examples])  # (N,)
    head, llm = HeadScores(None, {}), None
    if predictions.head is not None:
        chosen = np.array([names.index(name) for name in predictions.head], np.int64)
        head = score_heads(chosen, predictions.dimensions, examples, recipe)
    if predictions.llm is not None:
        llm = score_labels(predictions.llm, true, names, predictions.in_words)
    intervals = ccc_intervals(utterances, predictions.dimensions) if head.ccc else {}
    return Scores(data, head, intervals, llm, empathy, predictions.losses)


def ccc_intervals(
    utterances: Sequence[Utterance], dimensions: NDArray[np.float32] | None
) -> dict[str, tuple[float, float]]:
    """Bootstrap interval of each dimension's CCC, over the clips that have dimensions.

    Args:
        dimensions: (N, 3) as predicted, or None.
    """
    if dimensions is None:
        return {}
    rows = [i for i, utterance in enumerate(utterances) if utterance.vad is not None]
    true = np.array([utterances[i].vad for i in rows])  # (n, 3)
    said = dimensions[rows].astype(np.float64)
    found = {}
    for column, name in enumerate(DIMENSIONS):
        interval = concordance_interval(true[:, column], said[:, column])
        found[name] = (interval.low, interval.high)
    return found


def prediction_rows(
    utterances: Sequence[Utterance], predictions: EmotionPredictions
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `predictions.csv`: an utterance's true emotion, what the head and the LLM
    say, and the dimension head's arousal, dominance, valence; empty for nothing."""
    labels = predictions.llm
    said: dict[str, Sequence[str | None] | None] = {
        "head": predictions.head,
        "llm": None if labels is None else [label.likely for label in labels],
        "llm_in_words": None if labels is None else [label.named for label in labels],
    }
    felt = predictions.dimensions
    rows = []
    for place, utterance in enumerate(utterances):
        named = ["" if column is None else column[place] or "" for column in said.values()]
        values = [""] * 3 if felt is None else [f"{value:.4f}" for value in felt[place]]
        rows.append([utterance.id, utterance.speaker, utterance.emotion or "", *named, *values])
    return ["id", "speaker", "emotion", *said, *DIMENSIONS], rows
