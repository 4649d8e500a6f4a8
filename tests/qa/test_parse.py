"""Parser: forms that LLMs write for `Question: … Answer: …`, and texts without a pair."""

import pytest

from rellm_cache.qa.parse import Pair, parse_answer, parse_pairs

FORM = Pair("What is by the door?", "Some dogs are.")


@pytest.mark.parametrize(
    "text",
    [
        "Question: What is by the door?\nAnswer: Some dogs are.",
        "Sure! Here you are:\n\n**Question:** What is by the door?\n\n**Answer:** Some dogs are.",
        "Q: What is by the door?\nA: Some dogs are.",
        "1. Question: What is by the door?\n   Answer: Some dogs are.",
        'Question 1: "What is by the door?"\nAnswer 1: “Some dogs are.”',
        "- **Q1:** What is by the door?\n- **A1:** Some dogs are.",
        "question: What is by\nthe door? answer: Some dogs\nare.",
        "**Question:** What is by the door? **Answer:** Some dogs are.",
        'Sure: Question: "What is by the door?" Answer: Some dogs are.',
    ],
)
def test_forms_that_llms_write(text: str) -> None:
    assert parse_pairs(text) == [FORM]


def test_several_pairs_in_their_order() -> None:
    text = (
        "1. Question: What is by the door?\nAnswer: Some dogs are.\n"
        "2. Question: How does it sound?\nAnswer: Sad.\n3. Question: Cut off he"
    )
    assert parse_pairs(text) == [FORM, Pair("How does it sound?", "Sad.")]
    assert parse_pairs(" ".join(text.split())) == parse_pairs(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (
            "Question: What is asked?\nAnswer: One question: what is by the door?\n",
            Pair("What is asked?", "One question: what is by the door?"),
        ),
        (
            "Q: What is asked?\nA: The speaker asks the “big” question: why? The answer: none.",
            Pair("What is asked?", "The speaker asks the “big” question: why? The answer: none."),
        ),
        (
            "Question: Is the answer: yes or no?\nAnswer: No, to the first question: why.",
            Pair("Is the answer: yes or no?", "No, to the first question: why."),
        ),
        (
            "Question: Say what is by the door Answer: Some dogs are.",
            Pair("Say what is by the door", "Some dogs are."),
        ),
    ],
)
def test_a_label_starts_a_line_or_a_sentence(text: str, pair: Pair) -> None:
    assert parse_pairs(text) == [pair]


@pytest.mark.parametrize(
    "text",
    [
        # SmolLM2-135M, asked for a pair
        'The answer to this question is: "The speaker sounds angry."',
        'The answer to the question "Kids are talking by the door" is "Kids are talking by the '
        'door".\n\nThis is a good example of how to use a question to ask for a response.',
        "",
        "Question: What is by the door?",
        "Question: What is by the door?\nAnswer:",
        "Answer: Some dogs are.\nQuestion: What is by the door?",
        "Q and A are letters: A comes first.",
    ],
)
def test_a_text_without_a_pair_gives_none(text: str) -> None:
    assert parse_pairs(text) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The speaker is sad.", "The speaker is sad."),
        ("Answer: The speaker is sad.", "The speaker is sad."),
        ("Sure.\n**Answer:** The speaker\nis sad.", "The speaker is sad."),
        ("Answer: Sad.\nQuestion: And now?\nAnswer: Happy.", "Sad."),
        ("The speaker is sad.\n\nQuestion: Why?", "The speaker is sad."),
        ("The speaker is sad. Question: Why?", "The speaker is sad."),
        (
            "It asks one question: why? Its answer: no.",
            "It asks one question: why? Its answer: no.",
        ),
        ('"Oh no, I\'m so sorry."', "Oh no, I'm so sorry."),
        ('"No", he said. "Yes"', '"No", he said. "Yes"'),
        ("Question: Why?", ""),
        ("  ", ""),
    ],
)
def test_an_answer_alone(text: str, answer: str) -> None:
    assert parse_answer(text) == answer
