"""Emotion recognition scores. In: true and predicted class indices. Out: UA and its parts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RecognitionScores:
    """How well emotions were recognised.

    Attributes:
        ua: unweighted accuracy, the mean of per-class recalls over classes that occur.
        accuracy: share of correct utterances (weighted accuracy).
        recalls: class name → recall, for classes that occur.
        confusion: confusion[true][predicted], counts; a last column counts unparsable answers.
        labels: names of the rows.
        count: utterances scored.
    """

    ua: float
    accuracy: float
    recalls: dict[str, float]
    confusion: list[list[int]]
    labels: tuple[str, ...]
    count: int


def confusion_matrix(
    true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts (classes, classes + 1): a prediction below 0 is no answer and counts in the last."""
    columns = np.where(predicted < 0, classes, predicted)
    matrix = np.zeros((classes, classes + 1), np.int64)
    np.add.at(matrix, (true, columns), 1)
    return matrix


def score_recognition(
    true: NDArray[np.int64], predicted: NDArray[np.int64], labels: tuple[str, ...]
) -> RecognitionScores:
    """Score predictions (N,) against true classes (N,); a prediction of -1 is always wrong."""
    matrix = confusion_matrix(true, predicted, len(labels))
    totals = matrix.sum(axis=1)
    recalls = {
        label: float(matrix[i, i] / totals[i]) for i, label in enumerate(labels) if totals[i]
    }
    return RecognitionScores(
        ua=float(np.mean(list(recalls.values()))),
        accuracy=float(np.trace(matrix[:, :-1]) / totals.sum()),
        recalls=recalls,
        confusion=matrix.tolist(),
        labels=labels,
        count=int(totals.sum()),
    )
