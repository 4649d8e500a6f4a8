"""Dimensions (arousal, dominance, valence): their order, scale and checks.

Wrong order and wrong scale are the most common mistakes with these labels. A single clip does not
show a mistake, but the mean of each emotion does: anger has more arousal and dominance than
sadness, and happiness has more valence than both.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean
from typing import Any

from rellm_cache.corpus.field_validation import is_number
from rellm_cache.errors import ManifestError

Vad = tuple[float, float, float]
DIMENSIONS = ("arousal", "dominance", "valence")  # their order everywhere in rellm
AROUSAL, DOMINANCE, VALENCE = range(3)
# In any corpus, the dimension is higher for the first emotion than for the second.
CONTRASTS = (
    (AROUSAL, "angry", "sad"),
    (DOMINANCE, "angry", "sad"),
    (VALENCE, "happy", "sad"),
    (VALENCE, "happy", "angry"),
)
ENOUGH_CLIPS = 5  # minimum number of clips of an emotion to compare its mean
ENOUGH_FOR_RANGE = 100  # minimum number of clips to check their range
NARROW = 0.25  # a narrower range is suspicious


@dataclass(frozen=True)
class DimensionSummary:
    """Statistics of the dimensions of many clips."""

    clips: int  # number of clips with dimensions
    low: Vad  # lowest arousal, dominance, valence
    high: Vad  # highest arousal, dominance, valence
    means: dict[str, Vad]  # emotion → mean arousal, dominance, valence
    warnings: list[str]  # likely mistakes, as sentences


def check_vad(values: Sequence[float], where: str) -> Vad:
    """Arousal, dominance, valence as floats; `ManifestError` unless each is in 0..1."""
    if type(values) is list and len(values) == 3:  # most rows, quickly
        one, two, three = values
        are_floats = type(one) is type(two) is type(three) is float
        if are_floats and 0 <= one <= 1 and 0 <= two <= 1 and 0 <= three <= 1:
            return one, two, three
    if not isinstance(values, Sequence) or len(values) != 3 or not all(map(is_number, values)):
        raise ManifestError(
            f"{where}: found dimensions {values!r}, expected three numbers (arousal, dominance, "
            "valence)"
        )
    for name, value in zip(DIMENSIONS, values, strict=True):
        if not (math.isfinite(value) and 0 <= value <= 1):
            hint = ""
            if all(1 <= v <= 7 for v in values):
                top = 5 if max(values) <= 5 else 7
                hint = f"; this looks like a 1 to {top} scale: store (x - 1) / {top - 1}"
            raise ManifestError(f"{where}: {name} {value} is outside 0..1{hint}")
    return float(values[0]), float(values[1]), float(values[2])


def rescale(values: Sequence[Any], scale: tuple[float, float], where: str) -> Vad:
    """Rescale dimensions to 0..1.

    Args:
        values: arousal, dominance, valence, as numbers or text.
        scale: lowest and highest value of the source, for example (1, 5).

    Raises:
        ManifestError: a value is not a number or outside the scale.
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ManifestError(
            f"{where}: dimensions {values!r} are not numbers; expected arousal, dominance, valence"
        ) from error
    low, high = scale
    if (low, high) == (0.0, 1.0):
        return check_vad(numbers, where)  # its message suggests other scales
    for name, number in zip(DIMENSIONS, numbers, strict=True):
        if not low <= number <= high:
            raise ManifestError(
                f"{where}: {name} {number:g} is outside the scale {low:g}..{high:g}"
            )
    return check_vad([(number - low) / (high - low) for number in numbers], where)


def summarize_dimensions(rows: Sequence[tuple[str | None, Vad]]) -> DimensionSummary:
    """Statistics of the emotion and dimensions of clips; at least one clip is needed."""
    by_emotion: dict[str, list[Vad]] = {}
    for emotion, vad in rows:
        if emotion:
            by_emotion.setdefault(emotion, []).append(vad)
    means = {emotion: _mean(vads) for emotion, vads in sorted(by_emotion.items())}
    columns = list(zip(*(vad for _, vad in rows), strict=True))
    low, high = _three(map(min, columns)), _three(map(max, columns))
    sure = {emotion: m for emotion, m in means.items() if len(by_emotion[emotion]) >= ENOUGH_CLIPS}
    warnings = _range_warnings(low, high) if len(rows) >= ENOUGH_FOR_RANGE else []
    if (swap := order_warning(sure)) is not None:
        warnings.append(swap)
    return DimensionSummary(len(rows), low, high, means, warnings)


def _mean(vads: Sequence[Vad]) -> Vad:
    return _three(map(fmean, zip(*vads, strict=True)))


def _three(numbers: Iterable[float]) -> Vad:
    arousal, dominance, valence = numbers
    return arousal, dominance, valence


def _range_warnings(low: Vad, high: Vad) -> list[str]:
    return [
        f"{name} lies within {bottom:.2f}..{top:.2f} of 0..1: was it scaled twice, or from a "
        "wider scale than its own?"
        for name, bottom, top in zip(DIMENSIONS, low, high, strict=True)
        if top - bottom < NARROW
    ]


def order_warning(means: Mapping[str, Vad]) -> str | None:
    """A warning if the means by emotion contradict the order of the dimensions, else None.

    A swap of only arousal and dominance is not found: both are high in anger, low in sadness.
    """
    if not {"angry", "happy", "sad"} <= means.keys():
        return None
    broken = [c for c in CONTRASTS if _contrast(means, c) <= 0]
    if not broken:
        return None
    dimension, high, low = broken[0]
    found = (
        f"{DIMENSIONS[dimension]} is {means[high][dimension]:.2f} for {high} and "
        f"{means[low][dimension]:.2f} for {low} on average, expected higher for {high}"
    )
    fitting = [order for order in permutations(range(3)) if _fits(means, order)]
    if not fitting:
        return f"{found}; no other order of the dimensions fits either: check columns and scale"
    order = max(fitting, key=lambda o: _likelihood(means, o))
    # order[d] is the column that holds dimension d.
    behaves = [DIMENSIONS[order.index(column)] for column in range(3)]
    return (
        f"{found}: likely a swap. What was read as {', '.join(DIMENSIONS)} behaves as "
        f"{', '.join(behaves)}"
    )


def _contrast(means: Mapping[str, Vad], contrast: tuple[int, str, str]) -> float:
    dimension, high, low = contrast
    return means[high][dimension] - means[low][dimension]


def _fits(means: Mapping[str, Vad], order: tuple[int, ...]) -> bool:
    return all(_contrast(means, (order[d], high, low)) > 0 for d, high, low in CONTRASTS)


def _likelihood(means: Mapping[str, Vad], order: tuple[int, ...]) -> float:
    """Score of an order: contrasts, plus angry - happy in dominance, minus the same in arousal."""
    contrasts = sum(_contrast(means, (order[d], high, low)) for d, high, low in CONTRASTS)
    dominance = _contrast(means, (order[DOMINANCE], "angry", "happy"))
    return contrasts + dominance - _contrast(means, (order[AROUSAL], "angry", "happy"))
