"""Emotion recognition scores. In: true and predicted class indices. Out: UA, WA, macro F1."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RecognitionScores:
    """How well emotions were recognised.

    Attributes:
        ua: unweighted accuracy, the mean of per-class recalls over classes that occur.
        accuracy: share of correct utterances (weighted accuracy).
        macro_f1: mean of the F1 of each class that occurs or is predicted.
        recalls: class name → recall, for classes that occur.
        f1: class name → F1, for classes that occur or are predicted.
        confusion: confusion[true][predicted], counts; a last column counts unparsable answers.
        labels: names of the rows.
        count: utterances scored.
    """

    ua: float
    accuracy: float
    macro_f1: float
    recalls: dict[str, float]
    f1: dict[str, float]
    confusion: list[list[int]]
    labels: tuple[str, ...]
    count: int


def confusion_matrix(
    true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts (classes, classes + 1): a prediction below 0 is no answer and counts in the last.

    Raises:
        ValueError: a true or predicted class that there is not.
    """
    if true.size and (true.min() < 0 or max(true.max(), predicted.max()) >= classes):
        raise ValueError(
            f"found true classes {true.min()} to {true.max()} and predictions up to "
            f"{predicted.max()}, expected 0 to {classes - 1}"
        )
    columns = np.where(predicted < 0, classes, predicted)
    matrix = np.zeros((classes, classes + 1), np.int64)
    np.add.at(matrix, (true, columns), 1)
    return matrix


def f1_scores(matrix: NDArray[np.int64], labels: tuple[str, ...]) -> dict[str, float]:
    """F1 of each class of a confusion matrix (C, C + 1) that occurs or is predicted."""
    occurrences = matrix.sum(axis=1) + matrix.sum(axis=0)[:-1]  # true and predicted, (C,)
    return {
        label: float(2 * matrix[i, i] / occurrences[i])
        for i, label in enumerate(labels)
        if occurrences[i]
    }


def score_recognition(
    true: NDArray[np.int64], predicted: NDArray[np.int64], labels: tuple[str, ...]
) -> RecognitionScores:
    """Score predictions (N,) against true classes (N,); a prediction of -1 is always wrong.

    Raises:
        ValueError: nothing to score, or a class that has no label.
    """
    if not len(true):
        raise ValueError("no utterance to score")
    matrix = confusion_matrix(true, predicted, len(labels))
    totals = matrix.sum(axis=1)
    recalls = {
        label: float(matrix[i, i] / totals[i]) for i, label in enumerate(labels) if totals[i]
    }
    f1 = f1_scores(matrix, labels)
    return RecognitionScores(
        ua=float(np.mean(list(recalls.values()))),
        accuracy=float(np.trace(matrix[:, :-1]) / totals.sum()),
        macro_f1=float(np.mean(list(f1.values()))),
        recalls=recalls,
        f1=f1,
        confusion=matrix.tolist(),
        labels=labels,
        count=int(totals.sum()),
    )


def ua_of_rows(true: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) UA of each row of classes (R, N), given which predictions are `right`, 1 or 0 (R, N).

    A class that does not occur in a row counts for nothing there.
    """
    recalls = []
    for label in np.unique(true):
        occurs = true == label  # (R, N)
        total = occurs.sum(axis=-1)
        with np.errstate(invalid="ignore"):
            recalls.append(np.where(total, (right * occurs).sum(axis=-1) / total, np.nan))
    found: NDArray[np.float64] = np.nanmean(np.stack(recalls), axis=0)
    return found
