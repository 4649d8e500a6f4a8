"""TF-IDF regression: equal to scikit-learn, saved without pickles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from rellm_cache.empathy.exchanges import EncodedExchange
from rellm_cache.empathy.tfidf import fit_tfidf, load_tfidf, reply_terms, save_tfidf
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.utils.checksums import record

REPLIES = [
    "I am so sorry.",
    "Why? Why so?",
    "Go for a walk",
    "so sorry to hear",
    "What? Why",
    "a walk",
]
LEVELS = [2, 1, 0, 2, 1, 0]


def encoded(words: str, levels: dict[str, int]) -> EncodedExchange:
    return EncodedExchange(torch.empty(0), torch.empty(0), words, False, False, levels, {})


def fit(levels: list[int]) -> list[EncodedExchange]:
    return [encoded(r, {"EX": n}) for r, n in zip(REPLIES, levels, strict=True)]


def test_words_of_questions_are_terms_of_their_own() -> None:
    terms = reply_terms("I feel it. Why so?")
    assert terms[:6] == ["i", "feel", "it", "why", "so", "?"]
    assert terms[6:11] == ["i feel", "feel it", "it why", "why so", "so ?"]
    assert terms[11:] == ["?:^", "?:why", "?:so", "?:?", "?:^ why", "?:why so", "?:so ?"]
    assert reply_terms("So, why.") == ["so", "why", "so why"]


@pytest.mark.parametrize("levels", [LEVELS, [0, 2, 0, 0, 2, 0]], ids=["three", "two levels"])
def test_probabilities_are_scikit_learns(levels: list[int]) -> None:
    pipeline = make_pipeline(
        TfidfVectorizer(analyzer=reply_terms, sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, class_weight="balanced", max_iter=2000),
    ).fit(REPLIES, levels)
    logits = fit_tfidf(fit(levels), ["EX"]).logits([*REPLIES, "unheard of"])["EX"]
    expected = np.zeros((7, 3))
    expected[:, sorted(set(levels))] = pipeline.predict_proba([*REPLIES, "unheard of"])
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)


def test_a_level_without_examples_is_never_probable() -> None:
    logits = fit_tfidf(fit([1] * 6), ["EX"]).logits(["so sorry"])["EX"]
    assert softmax(logits, axis=1)[0] == pytest.approx((0, 1, 0), abs=1e-5)


def test_only_judged_exchanges_count() -> None:
    judged = fit(LEVELS)
    others = [encoded("so sorry why", {"ER": 1})] * 3
    words = fit_tfidf([*judged, *others], ["EX", "ER"])
    assert words.coefficients["EX"].any()
    assert not words.coefficients["ER"].any()
    assert "?" in words.terms
    assert "so sorry" in words.terms


def test_saving_and_loading(tmp_path: Path) -> None:
    words = fit_tfidf(fit(LEVELS), ["EX"])
    save_tfidf(tmp_path, words)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results.sha256",
        "words.json",
        "words.safetensors",
    ]
    again = load_tfidf(tmp_path, ["EX"])
    assert again.terms == words.terms
    np.testing.assert_array_equal(again.logits(REPLIES)["EX"], words.logits(REPLIES)["EX"])
    with pytest.raises(RunError, match="train again"):
        load_tfidf(tmp_path, ["ER"])
    (tmp_path / "words.json").write_text('["one"]')
    with pytest.raises(RunError, match=r"words\.json: found other bytes than results\.sha256 says"):
        load_tfidf(tmp_path, ["EX"])
    record(tmp_path, ["words.json"])
    with pytest.raises(RunError, match=r"words\.json: not what .* expected equal numbers"):
        load_tfidf(tmp_path, ["EX"])


def test_too_few_words() -> None:
    with pytest.raises(ManifestError, match="set word_weight=0"):
        fit_tfidf([encoded("one", {"EX": 0}), encoded("other", {"EX": 1})], ["EX"])
