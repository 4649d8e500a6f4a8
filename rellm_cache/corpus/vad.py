"""Arousal, dominance, valence: their scale and order. In: a corpus's numbers. Out: 0..1, checked.

The order of the three and their scale are what people get wrong most often, and no single clip
shows it. Means by emotion do: anger is more aroused and more dominant than sadness, happiness is
more pleasant than either.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean

from rellm_cache.corpus.manifest import DIMENSIONS, Utterance, Vad, check_vad
from rellm_cache.errors import ManifestError

AROUSAL, DOMINANCE, VALENCE = range(3)
# Which dimension is higher for the first emotion than for the second, in any corpus of emotions.
CONTRASTS = (
    (AROUSAL, "angry", "sad"),
    (DOMINANCE, "angry", "sad"),
    (VALENCE, "happy", "sad"),
    (VALENCE, "happy", "angry"),
)
ENOUGH_CLIPS = 5  # of each of those emotions, to believe their means
ENOUGH_FOR_RANGE = 100
NARROW = 0.25


@dataclass(frozen=True)
class DimensionSummary:
    """The dimensions of many clips.

    Attributes:
        clips: that have them.
        low, high: extremes of arousal, dominance, valence.
        means: emotion → means of arousal, dominance, valence.
        warnings: what looks wrong in them.
    """

    clips: int
    low: Vad
    high: Vad
    means: dict[str, Vad]
    warnings: list[str]


def rescale(values: Sequence[float], scale: tuple[float, float], where: str) -> Vad:
    """Dimensions in rellm's order, brought from their own scale to 0..1.

    Args:
        values: arousal, dominance, valence.
        scale: lowest and highest value there, as (1, 5).

    Raises:
        ManifestError: a value is off the scale.
    """
    low, high = scale
    for name, value in zip(DIMENSIONS, values, strict=True):
        if not low <= value <= high:
            raise ManifestError(f"{where}: {name} {value:g} is outside the scale {low:g}..{high:g}")
    return check_vad([(value - low) / (high - low) for value in values], where)


def summarise(utterances: Iterable[Utterance]) -> DimensionSummary:
    """Summary of the clips that have dimensions; there must be one."""
    rows = [(u.emotion, u.vad) for u in utterances if u.vad is not None]
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
    """What the means by emotion say against the order of the dimensions; None if nothing.

    A swap of arousal and dominance alone goes unseen: both are high in anger and low in sadness.
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
    # Column order[d] holds dimension d.
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
    """The sum of all contrasts; anger and happiness differ more in dominance than in arousal."""
    contrasts = sum(_contrast(means, (order[d], high, low)) for d, high, low in CONTRASTS)
    dominance = _contrast(means, (order[DOMINANCE], "angry", "happy"))
    return contrasts + dominance - _contrast(means, (order[AROUSAL], "angry", "happy"))
