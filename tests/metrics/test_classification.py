"""Recognition scores against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from rellm_cache.metrics.classification import score_recognition, ua_interval, ua_of_rows

LABELS = ("neutral", "happy", "angry")


def test_scores_of_a_small_example() -> None:
    true = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, -1, 0])
    scores = score_recognition(true, predicted, LABELS)
    assert scores.recalls == {"neutral": pytest.approx(2 / 3), "happy": 0.5, "angry": 0.0}
    assert scores.ua == pytest.approx((2 / 3 + 0.5) / 3)
    assert scores.accuracy == 0.5
    assert scores.confusion == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    assert (scores.labels, scores.count) == (LABELS, 6)


def test_a_class_that_does_not_occur_does_not_count() -> None:
    scores = score_recognition(np.array([0, 1]), np.array([0, 2]), LABELS)
    assert scores.recalls == {"neutral": 1.0, "happy": 0.0}
    assert scores.ua == 0.5
    absent = score_recognition(np.array([0, 1]), np.array([0, 1]), LABELS)
    assert absent.f1 == {"neutral": 1.0, "happy": 1.0}


def test_f1_counts_wrong_answers_and_none() -> None:
    scores = score_recognition(np.array([0, 0, 1, 2]), np.array([0, -1, 0, 2]), LABELS)
    assert scores.f1 == {"neutral": 0.5, "happy": 0.0, "angry": 1.0}
    assert scores.macro_f1 == 0.5


def test_scores_equal_scikit_learn() -> None:
    random = np.random.default_rng(1)
    true, predicted = random.integers(0, 3, (2, 200))
    scores = score_recognition(true, predicted, LABELS)
    assert scores.ua == pytest.approx(metrics.balanced_accuracy_score(true, predicted))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    np.testing.assert_array_equal(
        np.array(scores.confusion)[:, :3], metrics.confusion_matrix(true, predicted)
    )


def test_ua_of_rows_equals_scikit_learn_row_by_row() -> None:
    true, predicted = np.random.default_rng(2).integers(0, 4, (2, 6, 50))
    true[0] %= 2  # two of the classes do not occur in the first row
    predicted[0] %= 2
    expected = [metrics.balanced_accuracy_score(t, p) for t, p in zip(true, predicted, strict=True)]
    found = ua_of_rows(true.astype(float), (true == predicted).astype(float))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([0, -1], [0, 1], "found true classes -1 to 0"),
        ([0, 3], [0, 1], "found true classes 0 to 3"),
        ([0, 1], [0, 3], "predictions up to 3, expected 0 to 2"),
        ([], [], "no utterance to score"),
    ],
)
def test_unknown_classes_are_refused(true: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_recognition(np.array(true, np.int64), np.array(predicted, np.int64), LABELS)


def test_the_interval_of_ua_is_that_of_the_clips() -> None:
    random = np.random.default_rng(3)
    true = random.integers(0, 3, 60)
    predicted = np.where(random.random(60) < 0.6, true, random.integers(-1, 3, 60))
    scores = score_recognition(true, predicted, ("a", "b", "c"))
    found = scores.ua_interval
    expected = ua_interval(true.astype(float), (true == predicted).astype(float))
    assert found.value == pytest.approx(scores.ua)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert 0.05 < found.high - found.low < 0.4
