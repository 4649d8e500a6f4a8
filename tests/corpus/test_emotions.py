"""One table of emotion names for every corpus."""

import pytest

from rellm_cache.corpus.emotions import SYNONYMS, find_emotion, normalise_emotion
from rellm_cache.errors import ManifestError

OPTIONS = ("neutral", "happy", "angry", "sad", "surprise")


@pytest.mark.parametrize(
    ("label", "name"),
    [("neu", "neutral"), ("Happiness", "happy"), (" ANGER ", "angry"), ("U", "surprise")],
)
def test_every_corpus_spelling_has_one_name(label: str, name: str) -> None:
    assert normalise_emotion(label) == name


def test_names_are_their_own_names_and_no_alias_means_two() -> None:
    assert [normalise_emotion(name) for name in SYNONYMS] == list(SYNONYMS)
    aliases = [alias for names in SYNONYMS.values() for alias in names]
    assert len(set(aliases) | set(SYNONYMS)) == len(aliases) + len(SYNONYMS)


def test_an_unknown_emotion_lists_the_known() -> None:
    with pytest.raises(ManifestError, match="unknown emotion 'melancholy'; known are neutral, hap"):
        normalise_emotion("melancholy")


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
