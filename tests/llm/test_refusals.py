"""Refusals: the paper's rules."""

import pytest

from rellm_cache.llm.refusals import refusal_reason


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("I'm sorry, but I'm not sure what you mean.", "refusal"),
        ("Well, AS AN AI LANGUAGE MODEL I feel nothing.", "refusal"),
        ("Oh. I'm sorry, but I think so.", "refusal"),
        ("I\u2019m not sure what you want.", "refusal"),
        ("", "empty"),
        ("I'm sorry to hear that.", None),
        ("I'm not sure, but I hope so.", None),
    ],
)
def test_refusals_and_empty_responses(response: str, reason: str | None) -> None:
    assert refusal_reason(response) == reason
