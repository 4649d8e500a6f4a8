"""Requests: bins of dimensions, metadata in words, filled templates."""

from dataclasses import replace

import pytest

from rellm_cache.config.qa import TYPES, GivenQuestions, PairRequests, QASettings, QAType
from rellm_cache.config.recipes import load_recipe
from rellm_cache.corpus.manifest import Utterance, VadSource
from rellm_cache.errors import ConfigError
from rellm_cache.qa.prompts import describe, has_type, label_source, level_name, write_request

SAD = Utterance("a", "a.wav", text="It {was} mine.", emotion="sad", vad=(0.2, 0.5, 0.6))


@pytest.mark.parametrize(
    ("value", "word"),
    [(0.0, "low"), (0.39, "low"), (0.4, "medium"), (0.59, "medium"), (0.6, "high"), (1.0, "high")],
)
def test_an_edge_belongs_to_the_higher_level(value: float, word: str) -> None:
    assert level_name(value, QASettings().bins) == word


def test_metadata_in_words() -> None:
    text = "The speaker sounds sad."
    assert describe(Utterance("a", "a.wav", emotion="sad"), QASettings()) == text
    known = f"{text} Arousal is low, dominance is medium, valence is high."
    assert describe(SAD, QASettings()) == known
    assert describe(SAD, QASettings(dimensions="")) == text


@pytest.mark.parametrize(
    ("source", "dimensions", "said"),
    [
        ("human", "Arousal is {arousal}.", "corpus"),
        ("pseudo", "Arousal is {arousal}.", "pseudo"),
        ("made", "Arousal is {arousal}.", "made"),
        ("pseudo", "", "corpus"),  # the request does not contain them
    ],
)
def test_label_source_is_the_source_of_the_dimensions_in_the_request(
    source: VadSource, dimensions: str, said: str
) -> None:
    utterance = replace(SAD, vad_source=source)
    assert label_source(utterance, QASettings(dimensions=dimensions)) == said
    assert label_source(replace(utterance, vad=None), QASettings()) == "corpus"


@pytest.mark.parametrize("kind", TYPES)
def test_a_request_has_all_marks_filled(kind: QAType) -> None:
    for given in ("", "How?"):
        settings = QASettings(pairs_each=3, questions=GivenQuestions(**{kind: given}))
        request = write_request(SAD, kind, settings)
        assert request.question == given
        assert "It {was} mine." in request.user
        assert "valence is high" in request.user
        assert ("Write 3 question(s)" in request.user) == (not given)
        assert "{" not in request.user.replace("{was}", "")


def test_explicit_mode_has_no_emotion_questions() -> None:
    assert [has_type("explicit", k) for k in TYPES] == [True, False, True, True]
    assert all(has_type("implicit", k) for k in TYPES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qa.types=['mood']", "unknown 'mood'; expected some of"),
        ("qa.types=[]", "expected one or more different types"),
        ("qa.bins=[0.7, 0.3]", "expected two edges within 0..1"),
        ("qa.metadata_dropout=1.5", "qa.metadata_dropout = 1.5: expected 0 to 1"),
        ("qa.temperature=-1.0", "qa.temperature = -1.0: expected 0 or more"),
        ("qa.pairs_each=0", "qa.pairs_each = 0: expected 1 or more"),
        ("qa.prompt='{question} {speech}'", "expected {speech} before {question}"),
        ("qa.pairs.cause='Write.'", "qa.pairs.cause = 'Write.': expected {transcript} exactly"),
        ("qa.answers.reply='{transcript}'", "qa.answers.reply = .* expected {question} exactly"),
        ("qa.judge.top=10", "expected 1 to 9"),
        ("qa.questons.cause='Why?'", "unknown key 'questons'; did you mean 'questions'"),
    ],
)
def test_invalid_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("small", [override])


def test_explicit_rows_have_no_emotion_questions() -> None:
    with pytest.raises(ConfigError, match="explicit rows have no emotion questions"):
        QASettings(mode="explicit", types=("emotion",))
    assert PairRequests().emotion.count("{transcript}") == 1
