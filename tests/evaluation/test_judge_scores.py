"""Scores of judged answers, and what label accuracy says to them."""

import pytest

from rellm_cache.evaluation.judge_scores import JudgedAnswer, names_label, summarise_judged


def judged(score: float, right: bool | None, kind: str = "emotion") -> JudgedAnswer:
    return JudgedAnswer("a", kind, "How?", "Sad.", "Sad.", score, right)


def test_scores_and_label_accuracy_are_correlated() -> None:
    answers = [judged(4.0, True), judged(1.0, False), judged(3.5, True), judged(2.0, False)]
    scores = summarise_judged([*answers, judged(5.0, None, "content")], "run", "both", "m", 5)
    assert scores.accuracy == 0.5
    assert scores.overall.count == 5
    assert scores.types["emotion"].mean == pytest.approx(2.625)
    assert scores.correlation is not None
    assert scores.correlation.value == pytest.approx(0.894, abs=1e-3)  # ties of right and wrong
    alike = summarise_judged([judged(4.0, True), judged(1.0, True)], "run", "both", "m", 5)
    assert alike.to_json()["correlation"] is None
    assert summarise_judged([judged(5.0, None, "content")], "run", "both", "m", 5).accuracy is None


def test_an_answer_is_right_if_it_names_the_label_alone() -> None:
    assert names_label("The speaker sounds surprised.", "surprise")
    assert not names_label("Angry or sad.", "sad")
    assert not names_label("Tired.", "sad")
    assert names_label("The speaker sounds sad, in other words low.", "sad")
    assert not names_label("The other speaker sounds tired.", "other")
