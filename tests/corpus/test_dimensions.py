"""Dimensions: rescaling, and warnings about swapped order."""

from itertools import permutations

import pytest

from rellm_cache.corpus.dimensions import Vad, order_warning, rescale, summarize_dimensions
from rellm_cache.errors import ManifestError

# Means as in acted and in natural corpora: arousal, dominance, valence.
ACTED: dict[str, Vad] = {
    "angry": (0.67, 0.74, 0.22),
    "happy": (0.60, 0.57, 0.73),
    "sad": (0.40, 0.45, 0.31),
    "neutral": (0.43, 0.49, 0.49),
}


def reordered(order: tuple[int, ...]) -> dict[str, Vad]:
    """The means if column order[0] is read as arousal, and so on."""
    return {e: (vad[order[0]], vad[order[1]], vad[order[2]]) for e, vad in ACTED.items()}


def rated(means: dict[str, Vad], clips: int) -> list[tuple[str | None, Vad]]:
    return [row for row in means.items() for _ in range(clips)]


def test_the_right_order_gives_no_warning() -> None:
    assert order_warning(ACTED) is None


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_a_swap_is_named(order: tuple[int, ...]) -> None:
    names = ("arousal", "dominance", "valence")
    warning = order_warning(reordered(order))
    if order == (1, 0, 2):
        assert warning is None  # cannot be seen: both are high in anger, low in sadness
        return
    assert warning is not None
    assert warning.endswith(
        "likely a swap. What was read as arousal, dominance, valence behaves as "
        + ", ".join(names[i] for i in order)
    )


def test_iemocap_in_the_order_of_its_files_is_detected() -> None:
    summary = summarize_dimensions(rated(reordered((2, 0, 1)), 5))  # valence, arousal, dominance
    assert summary.warnings == [
        "arousal is 0.22 for angry and 0.31 for sad on average, expected higher for angry: likely "
        "a swap. What was read as arousal, dominance, valence behaves as valence, arousal, "
        "dominance"
    ]
    assert summarize_dimensions(rated(reordered((2, 0, 1)), 4)).warnings == []  # too few to tell


def test_means_that_fit_no_order_are_reported() -> None:
    upside_down = {e: (1 - a, 1 - d, 1 - v) for e, (a, d, v) in ACTED.items()}
    warning = order_warning(upside_down)
    assert warning is not None
    assert warning.endswith("no other order of the dimensions fits either: check columns and scale")
    assert order_warning({"angry": (0.1, 0.1, 0.9)}) is None  # nothing to compare it with


def test_statistics_and_a_narrow_range() -> None:
    squeezed: dict[str, Vad] = {e: (a / 4, d, v) for e, (a, d, v) in ACTED.items()}
    summary = summarize_dimensions(rated(squeezed, 25))
    assert summary.clips == 100
    assert summary.low == pytest.approx((0.1, 0.45, 0.22))
    assert summary.high == pytest.approx((0.1675, 0.74, 0.73))
    assert summary.means["sad"] == pytest.approx((0.1, 0.45, 0.31))
    assert summary.warnings == [
        "arousal lies within 0.10..0.17 of 0..1: was it scaled twice, or from a wider scale than "
        "its own?"
    ]


def test_rescaling_and_values_outside_the_scale() -> None:
    assert rescale((1, 4, 7), (1, 7), "here") == (0, 0.5, 1)
    with pytest.raises(ManifestError, match=r"here: dominance 7.5 is outside the scale 1..7"):
        rescale((1, 7.5, 7), (1, 7), "here")
    with pytest.raises(ManifestError, match=r"here: valence nan is outside the scale 1..7"):
        rescale((1, 7, float("nan")), (1, 7), "here")
