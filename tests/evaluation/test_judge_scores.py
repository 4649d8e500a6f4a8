"""Scores of the judge: what it is asked, and the levels among a server's first tokens."""

import math

import pytest

from rellm_cache.config.qa import JudgeSettings
from rellm_cache.evaluation.judge_scores import judge_request, score_first_tokens
from rellm_cache.qa.rows import QARow


def test_the_judge_sees_question_reference_and_answer() -> None:
    asked = QARow(
        "a", "implicit", "emotion", 0, "How?", "It is {answer}.", False, "", "sad", "corpus", None,
        "m", "0", "w", "p", 1, "It is {answer}.",
    )  # fmt: skip
    settings = JudgeSettings(request="{question}|{reference}|{answer}|{top}")
    assert judge_request(asked, "Sad.", settings) == "How?|It is {answer}.|Sad.|5"


def test_the_score_is_weighted_by_the_levels_among_the_first_tokens() -> None:
    tokens = [("5", math.log(0.4)), (" 5", math.log(0.1)), ("▁0", math.log(0.1)), ("9", -1.0)]
    found = score_first_tokens([*tokens, ("The", -1.0)], 5)
    assert found == {"score": pytest.approx(2.5 / 0.6), "level_share": pytest.approx(0.6)}
    assert score_first_tokens([("9", -0.1)], 9)["score"] == 9.0
    dropped = score_first_tokens([("The", -0.1), ("55", -2.0)], 5)["dropped"]
    assert dropped.startswith(
        "none of the 2 likeliest first tokens of the server is a level from 0"
    )
    assert "the likeliest is none" in score_first_tokens([], 5)["dropped"]
