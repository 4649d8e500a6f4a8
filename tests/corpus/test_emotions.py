"""Emotion names: labels of corpora and words in free text."""

import pytest

from rellm_cache.corpus.emotions import (
    CODES,
    SYNONYMS,
    emotions_in,
    find_emotion,
    normalize_emotion,
)
from rellm_cache.errors import ManifestError

OPTIONS = ("neutral", "happy", "angry", "sad", "surprise")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("neu", "neutral"),
        ("Happiness", "happy"),
        (" ANGER ", "angry"),
        ("U", "surprise"),
        ("oth", "other"),
    ],
)
def test_labels_of_corpora_have_one_name(label: str, name: str) -> None:
    assert normalize_emotion(label) == name


def test_no_alias_has_two_names() -> None:
    assert [normalize_emotion(name) for name in SYNONYMS] == list(SYNONYMS)
    aliases = [alias for table in (SYNONYMS, CODES) for names in table.values() for alias in names]
    assert len(set(aliases) | set(SYNONYMS)) == len(aliases) + len(SYNONYMS)


def test_an_unknown_emotion_lists_known_ones() -> None:
    with pytest.raises(ManifestError, match="unknown emotion 'melancholy'; known are neutral, hap"):
        normalize_emotion("melancholy")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The emotion is anger.", "angry"),
        ("Surprised!", "surprise"),
        ("fear, or perhaps sadness", "sad"),  # fear is not an option here
        ("A calm voice", None),  # a lone letter is no answer
        ("", None),
    ],
)
def test_an_emotion_is_found_in_free_text(text: str, found: str | None) -> None:
    assert find_emotion(text, OPTIONS) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("There are pros and cons; the con is that a sur tax may hap.", []),  # codes of corpora
        ("The speaker sounds sad, in other words low.", ["sad"]),
        ("They talk to each other.", []),
        ("One or the other.", []),
        ("It is other than sad.", ["sad"]),
        ("Other.", ["other"]),
        ('"other"', ["other"]),
        ("The emotion is other. They talk of dogs.", ["other"]),
        ("Emotion: other\nThe voice is afraid.", ["other", "fear"]),
        ("", []),
    ],
)
def test_codes_and_ordinary_words_are_not_emotions(text: str, found: list[str]) -> None:
    assert emotions_in(text, tuple(SYNONYMS)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It sounds non-neutral.", ["non-neutral"]),
        ("Neutral, not Boredom", ["neutral", "boredom"]),
        ("A joyful pain, groan", ["happy", "pain, groan"]),
        ("groan", []),
    ],
)
def test_options_of_any_name_are_found(text: str, found: list[str]) -> None:
    options = ("neutral", "non-neutral", "boredom", "happy", "pain, groan")
    assert emotions_in(text, options) == found
