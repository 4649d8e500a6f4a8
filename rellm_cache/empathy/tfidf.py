"""TF-IDF regression: logits of empathy levels from the words of a reply.

A class-balanced logistic regression on single words and pairs of words; a question mark counts as a
word. Words in questions are also separate terms, because explorations depend on whether "feel" is
in a question. A small encoder and this regression make different mistakes, so the combination is
better than each alone.
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
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from rellm_cache.empathy.epitome import LEVELS
from rellm_cache.empathy.exchanges import EncodedExchange
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.metrics.replies import questions
from rellm_cache.utils.atomic_files import write_file, write_text
from rellm_cache.utils.checksums import recorded, require_intact
from rellm_cache.utils.json_files import load
from rellm_cache.utils.tensor_files import load_safetensors

TENSORS, TERMS = "words.safetensors", "words.json"
WORD = re.compile(r"\w+|\?")
QUESTION, START = "?:", "^"  # prefix of terms in questions; START stands before the first word
MIN_REPLIES = 2  # minimum number of replies with a term
C = 10.0  # scikit-learn's inverse of the regularization strength
UNSEEN = float(np.log(1e-6))  # logit of a level that no reply has


@dataclass(frozen=True)
class TfidfModel:
    """One regression per mechanism over the same terms.

    Attributes:
        terms: V single words and pairs from `reply_terms`.
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


def fit_tfidf(exchanges: Sequence[EncodedExchange], mechanisms: Sequence[str]) -> TfidfModel:
    """Fit the regressions to exchanges with levels.

    Raises:
        ManifestError: no word occurs in two replies.
    """
    vectorizer = _vectorizer(None)
    try:
        values = vectorizer.fit_transform([e.words for e in exchanges])
    except ValueError as error:
        raise ManifestError(
            f"too few replies for word_weight above 0 ({error}); set word_weight=0"
        ) from error
    coefficients, intercepts = {}, {}
    for name in mechanisms:
        rows = [i for i, e in enumerate(exchanges) if name in e.levels]
        levels = [exchanges[i].levels[name] for i in rows]
        coefficients[name], intercepts[name] = _fit_levels(values[rows], levels)
    terms = tuple(vectorizer.get_feature_names_out())
    return TfidfModel(terms, np.asarray(vectorizer.idf_), coefficients, intercepts)


def save_tfidf(folder: Path, model: TfidfModel) -> None:
    """Write terms and tensors into a scorer's folder."""
    tensors = {"idf": model.idf}
    for name, weights in model.coefficients.items():
        tensors[f"{name}.coefficients"] = np.ascontiguousarray(weights)
        tensors[f"{name}.intercepts"] = model.intercepts[name]
    with recorded(folder, TERMS, TENSORS):
        write_text(folder / TERMS, json.dumps(model.terms, ensure_ascii=False) + "\n")
        write_file(folder / TENSORS, partial(save_file, tensors))


def load_tfidf(folder: Path, mechanisms: Sequence[str]) -> TfidfModel:
    """Read the files of `save_tfidf`; `RunError` if they are damaged or missing."""
    for name in (TERMS, TENSORS):
        require_intact(folder / name, "remove it and empathy.json, and train again")
    try:
        terms = _read_terms(folder / TERMS)
        read = load_safetensors(folder / TENSORS, RunError, "train again")
        tensors = {name: tensor.numpy() for name, tensor in read.items()}
        coefficients = {name: tensors[f"{name}.coefficients"] for name in mechanisms}
        intercepts = {name: tensors[f"{name}.intercepts"] for name in mechanisms}
        sizes = {len(terms), len(tensors["idf"]), *(w.shape[1] for w in coefficients.values())}
        if len(sizes) > 1:
            raise ValueError(f"found {sorted(sizes)} terms, expected equal numbers")
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("found NaN or infinite values")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{folder / TENSORS}, {TERMS}: not what `rellm empathy train` wrote "
            f"({type(error).__name__}: {error}); train again"
        ) from error
    return TfidfModel(terms, tensors["idf"], coefficients, intercepts)


def _read_terms(path: Path) -> tuple[str, ...]:
    found = load(path)
    if not isinstance(found, list) or not all(isinstance(term, str) for term in found):
        raise ValueError(f"{path.name}: found {found!r:.40}, expected a list of texts")
    return tuple(found)


def reply_terms(reply: str) -> list[str]:
    """Words and pairs of a reply (`why so`), then of its questions, with a prefix (`?:^ why`)."""
    terms = _words_and_pairs(WORD.findall(reply.lower()))
    for question in questions(reply.lower()):
        terms += [QUESTION + term for term in _words_and_pairs([START, *WORD.findall(question)])]
    return terms


def _words_and_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def _vectorizer(vocabulary: dict[str, int] | None) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=reply_terms,
        sublinear_tf=True,
        min_df=MIN_REPLIES if vocabulary is None else 1,
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
        model = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
        model.fit(values, levels)
        fitted = seen if len(seen) > 2 else seen[1:]  # with two levels, the first has logit 0
        coefficients[fitted], intercepts[fitted] = model.coef_, model.intercept_
    return coefficients, intercepts
