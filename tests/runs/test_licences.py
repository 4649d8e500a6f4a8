"""Licences: known, unknown, and the strictest."""

from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.runs.licences import (
    CORPUS_LICENCES,
    KNOWN_MODELS,
    UNKNOWN,
    combine_licences,
    describe_corpus_conditions,
    model_licence,
)
from rellm_cache.runs.provenance import CORPORA, DataSummary

NOTICE = (Path(__file__).parents[2] / "NOTICE").read_text("utf-8")
OWN = DataSummary(9, 1.0, 2, {}, {"train": 9}, {}, {})


def strictest(*licences: str) -> str:
    found = combine_licences(
        {f"m{i}": licence for i, licence in enumerate(licences)}, OWN
    ).strictest
    return found.licence if found else ""


def test_the_strictest_licence() -> None:
    assert strictest("MIT", "Apache-2.0") == "Apache-2.0"
    assert strictest("MIT", "Tongyi Qianwen licence agreement", "Apache-2.0").startswith("Tongyi")
    assert strictest("Tongyi Qianwen licence agreement", UNKNOWN) == UNKNOWN
    assert strictest(UNKNOWN, "CC-BY-NC-SA-4.0", "MIT") == "CC-BY-NC-SA-4.0"
    assert strictest("cc-by-nc-4.0", "CC BY-NC-SA 4.0") == "CC BY-NC-SA 4.0"
    assert strictest("none (no model)") == strictest("none: signal processing") == ""


def test_corpora_have_licences_too() -> None:
    terms = combine_licences({"whisper": "MIT"}, replace(OWN, corpora={"ravdess": 9}))
    assert [term.name for term in terms.non_commercial] == ["ravdess"]
    assert terms.strictest is not None
    assert terms.strictest.hub_name == "cc-by-nc-sa-4.0"
    assert describe_corpus_conditions(replace(OWN, corpora={"ravdess": 9})) == []
    (sentence,) = describe_corpus_conditions(replace(OWN, corpora={"iemocap": 5}))
    assert "may not be passed on" in sentence
    terms = combine_licences({"whisper": "MIT"}, replace(OWN, corpora={"another corpus": 9}))
    assert [term.name for term in terms.unknown] == ["another corpus"]
    assert not terms.non_commercial


def test_every_known_corpus_has_a_licence() -> None:
    assert CORPUS_LICENCES.keys() == set(CORPORA)


def test_non_commercial_is_read_from_a_whole_word() -> None:
    terms = combine_licences({"a": "CC-BY-NC-4.0", "b": "mncl", "c": "ncsa"}, OWN)
    assert [term.name for term in terms.non_commercial] == ["a"]


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: llama3.1\n---\n# A model", "llama3.1"),
        ("---\nlicense: other\nlicense_name: house-rules\n---\n", "house-rules"),
        ("---\nlicense: other\n---\n", "a licence of its own"),
        ("---\ntags: [a]\n---\n", UNKNOWN),
        ("---\nlicense: [\n---\n", UNKNOWN),
        ("# No head", UNKNOWN),
    ],
)
def test_a_model_folder_states_its_licence(tmp_path: Path, card: str, expected: str) -> None:
    (tmp_path / "README.md").write_text(card, "utf-8")
    assert model_licence(str(tmp_path)) == expected


def test_a_model_without_a_stated_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path))
    assert model_licence("lab/model") == UNKNOWN
    assert model_licence("HuggingFaceTB/SmolLM2-135M-Instruct") == "Apache-2.0"
    for model in KNOWN_MODELS:
        assert model.split("/")[-1].removesuffix("-Qwen2") in NOTICE
