"""Linear models on utterance vectors: predictions for clips that were not in training.

Vectors are standardised by the training clips. Classes are predicted by logistic regression with
balanced class weights, dimensions by ridge regression. The regularisation is chosen in each fold on
a quarter of its training clips or speakers, then the model is fitted on all of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from rellm_cache.metrics.classification import ua_of_rows
from rellm_cache.metrics.correlation import concordance
from rellm_cache.probing.targets import Target

INVERSE_STRENGTHS = (1e-3, 1e-2, 1e-1)  # C of the logistic regression
STRENGTHS = (1.0, 1e1, 1e2, 1e3, 1e4)  # alpha of the ridge regression


def held_out_predictions(target: Target, values: NDArray[np.float32]) -> NDArray[Any]:
    """Predict every clip (n,) of a target from vectors (n, D), by models that never saw it."""
    predicted = np.zeros_like(target.values)
    for train, test in target.folds():
        scaled = StandardScaler().fit(values[train]).transform(values).astype(np.float64)
        scaled = _rotate(scaled, scaled[train])
        fit, choose = target.held_out(train)
        models = _models(target)
        scores = [
            _score(target, choose, model.fit(scaled[fit], target.values[fit]), scaled)
            for model in models
        ]
        best = models[int(np.argmax(scores))].fit(scaled[train], target.values[train])
        predicted[test] = best.predict(scaled[test])
    return predicted


def _models(target: Target) -> list[LogisticRegression | Ridge]:
    if not target.labels:
        return [Ridge(alpha=strength) for strength in STRENGTHS]
    return [
        LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-3)
        for strength in INVERSE_STRENGTHS
    ]


def _score(
    target: Target,
    clips: NDArray[np.int64],
    model: LogisticRegression | Ridge,
    values: NDArray[np.float64],
) -> float:
    true, predicted = target.values[clips], model.predict(values[clips])
    if not target.labels:
        return concordance(true, predicted)
    return float(ua_of_rows(true[None], (true == predicted)[None])[0])


def _rotate(values: NDArray[np.float64], train: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors (N, D) in a basis of the training vectors (n, D), if n < D: (N, n).

    A model with an L2 penalty is the same in both, and much faster to fit in the smaller.
    """
    if len(train) >= values.shape[1]:
        return values
    _, _, basis = np.linalg.svd(train, full_matrices=False)  # (n, D)
    rotated: NDArray[np.float64] = values @ basis.T
    return rotated
