"""Emotion recognition scores: UA with its interval, accuracy, macro F1, recalls, confusion."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from rellm_cache.metrics.intervals import Column, Interval, bootstrap


@dataclass(frozen=True)
class RecognitionScores:
    """Emotion recognition scores of `count` utterances.

    Attributes:
        ua: unweighted accuracy: mean recall of the classes that occur.
        accuracy: share of correct utterances (weighted accuracy).
        macro_f1: mean F1 of the classes that occur or are predicted.
        recalls: class name → recall, for classes that occur.
        f1: class name → F1, for classes that occur or are predicted.
        confusion: confusion[true][predicted], counts; the last column counts unparsable answers.
    """

    ua: float
    accuracy: float
    macro_f1: float
    recalls: dict[str, float]
    f1: dict[str, float]
    confusion: list[list[int]]
    labels: tuple[str, ...]
    count: int

    @property
    def ua_interval(self) -> Interval:
        """UA with its 95 % bootstrap interval over clips."""
        counts = np.array(self.confusion)  # (C, C + 1)
        true = np.repeat(np.arange(len(counts)), counts.sum(axis=1)).astype(np.float64)  # (N,)
        correct = [np.arange(row.sum()) < row[index] for index, row in enumerate(counts)]
        return ua_interval(true, np.concatenate(correct).astype(np.float64))


def score_recognition(
    true: NDArray[np.int64], predicted: NDArray[np.int64], labels: tuple[str, ...]
) -> RecognitionScores:
    """Score predictions (N,) against true classes (N,); a prediction below 0 is always wrong.

    Raises:
        ValueError: nothing to score, or a class that has no label.
    """
    classes = len(labels)
    if not len(true):
        raise ValueError("no utterance to score")
    if true.min() < 0 or max(true.max(), predicted.max()) >= classes:
        raise ValueError(
            f"found true classes {true.min()} to {true.max()} and predictions up to "
            f"{predicted.max()}, expected 0 to {classes - 1}"
        )
    answers = np.where(predicted < 0, classes, predicted)
    matrix = confusion_matrix(true, answers, labels=range(classes + 1))[:-1]  # (C, C + 1)
    _, recalls, f1, counts = precision_recall_fscore_support(
        true, answers, labels=range(classes), zero_division=0
    )  # (C,) each
    occurs, is_predicted = counts > 0, matrix[:, :-1].any(axis=0)
    return RecognitionScores(
        ua=float(np.mean(recalls[occurs])),
        accuracy=float(accuracy_score(true, answers)),
        macro_f1=float(np.mean(f1[occurs | is_predicted])),
        recalls=_by_label(labels, recalls, occurs),
        f1=_by_label(labels, f1, occurs | is_predicted),
        confusion=matrix.tolist(),
        labels=labels,
        count=len(true),
    )


def _by_label(
    labels: tuple[str, ...], values: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> dict[str, float]:
    return {labels[i]: float(values[i]) for i in np.flatnonzero(chosen)}


def ua_of_rows(true: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """UA (R,) of each row of true classes (R, N) and of `right` (R, N), 1 or 0.

    `right` tells which predictions are correct. A class that does not occur in a row is left out
    there. Vectorized for bootstraps: scikit-learn would score thousands of rows one by one.
    """
    recalls = []
    for label in np.unique(true):
        occurs = true == label  # (R, N)
        total = occurs.sum(axis=-1)
        with np.errstate(invalid="ignore"):
            recalls.append(np.where(total, (right * occurs).sum(axis=-1) / total, np.nan))
    found: NDArray[np.float64] = np.nanmean(np.stack(recalls), axis=0)
    return found


def ua_interval(true: Column, right: Column) -> Interval:
    """UA with its 95 % bootstrap interval over clips, of true classes (N,) and `right` (N,)."""
    return bootstrap(ua_of_rows, true, right, method="percentile")
