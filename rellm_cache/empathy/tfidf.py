"""Words beside the encoder. In: replies with levels. Out: the levels' logits by TF-IDF.

A logistic regression on TF-IDF of one and two words, a question mark being a word, levels
balanced. The words of a reply's questions count once more, as terms of their own: it matters for
explorations whether "feel" is asked or told. A small encoder and it err on different replies;
together they are better than either.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from rellm_cache.empathy.epitome import LEVELS
from rellm_cache.empathy.exchanges import Reading
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.metrics.replies import questions
from rellm_cache.utils.atomic_files import write_file, write_text

TENSORS, TERMS = "words.safetensors", "words.json"
WORD = re.compile(r"\w+|\?")
ASKED, BEGIN = "?:", "^"  # marks of terms in questions; the first word follows BEGIN
LEAST = 2  # replies that a term must occur in
STRENGTH = 10.0  # scikit-learn's C: inverse of the regularisation
UNSEEN = float(np.log(1e-6))  # logit of a level that no reply had


@dataclass(frozen=True)
class WordModel:
    """A regression for each mechanism over the same terms.

    Attributes:
        terms: V single words and pairs, as `reply_terms` gives them.
        idf: (V,) inverse document frequencies.
        coefficients: mechanism → (3, V).
        intercepts: mechanism → (3,).
    """

    terms: tuple[str, ...]
    idf: NDArray[np.float64]
    coefficients: dict[str, NDArray[np.float64]]
    intercepts: dict[str, NDArray[np.float64]]

    def logits(self, replies: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Mechanism → (N, 3) logits of replies."""
        vectorizer = _vectorizer({term: place for place, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf
        values = vectorizer.transform(replies)  # (N, V), sparse
        return {
            name: np.asarray(values @ weights.T + self.intercepts[name])
            for name, weights in self.coefficients.items()
        }


def fit_words(readings: Sequence[Reading], mechanisms: Sequence[str]) -> WordModel:
    """Fit to readings with levels.

    Raises:
        ManifestError: no word occurs in two replies.
    """
    vectorizer = _vectorizer(None)
    try:
        values = vectorizer.fit_transform([r.words for r in readings])
    except ValueError as error:
        raise ManifestError(
            f"too few replies for word_weight above 0 ({error}); set word_weight=0"
        ) from error
    coefficients, intercepts = {}, {}
    for name in mechanisms:
        rows = [i for i, r in enumerate(readings) if name in r.levels]
        levels = [readings[i].levels[name] for i in rows]
        coefficients[name], intercepts[name] = _fit_levels(values[rows], levels)
    terms = tuple(vectorizer.get_feature_names_out())
    return WordModel(terms, np.asarray(vectorizer.idf_), coefficients, intercepts)


def save_words(folder: Path, words: WordModel) -> None:
    """Write terms and tensors into a scorer's folder."""
    tensors = {"idf": words.idf}
    for name, weights in words.coefficients.items():
        tensors[f"{name}.coefficients"] = np.ascontiguousarray(weights)
        tensors[f"{name}.intercepts"] = words.intercepts[name]
    write_text(folder / TERMS, json.dumps(words.terms, ensure_ascii=False) + "\n")
    write_file(folder / TENSORS, partial(save_file, tensors))


def load_words(folder: Path, mechanisms: Sequence[str]) -> WordModel:
    """Read what `save_words` wrote; `RunError` if it is damaged or not there."""
    try:
        terms = tuple(json.loads((folder / TERMS).read_text("utf-8")))
        tensors = load_file(folder / TENSORS)
        coefficients = {name: tensors[f"{name}.coefficients"] for name in mechanisms}
        intercepts = {name: tensors[f"{name}.intercepts"] for name in mechanisms}
        sizes = {len(terms), len(tensors["idf"]), *(w.shape[1] for w in coefficients.values())}
        if len(sizes) > 1:
            raise ValueError(f"found {sorted(sizes)} terms, expected one number")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RunError(
            f"{folder / TENSORS}, {TERMS}: not what `rellm empathy train` wrote "
            f"({type(error).__name__}: {error}); train again"
        ) from error
    return WordModel(terms, tensors["idf"], coefficients, intercepts)


def reply_terms(reply: str) -> list[str]:
    """Words and pairs of a reply, then those of its questions, marked: `why so`, `?:^ why`."""
    terms = _words_and_pairs(WORD.findall(reply.lower()))
    for question in questions(reply.lower()):
        terms += [ASKED + term for term in _words_and_pairs([BEGIN, *WORD.findall(question)])]
    return terms


def _words_and_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def _vectorizer(vocabulary: dict[str, int] | None) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=reply_terms,
        sublinear_tf=True,
        min_df=LEAST if vocabulary is None else 1,
        vocabulary=vocabulary,
    )


def _fit_levels(
    values: csr_matrix, levels: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (3, V) and intercepts (3,) of a regression on sparse values (N, V)."""
    seen = sorted(set(levels))
    width = values.shape[1]
    coefficients, intercepts = np.zeros((LEVELS, width)), np.full(LEVELS, UNSEEN)
    intercepts[seen] = 0.0
    if len(seen) > 1:
        model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000)
        model.fit(values, levels)
        fitted = seen if len(seen) > 2 else seen[1:]  # of two, the first has logit 0
        coefficients[fitted], intercepts[fitted] = model.coef_, model.intercept_
    return coefficients, intercepts
