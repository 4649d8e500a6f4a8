"""Long recordings: cut at silences into segments that are usable as clips.

Nothing is written: a segment is a start and an end in its recording, which is read in place.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rellm_cache.corpus.audio import read_levels
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.manifest import Utterance

WINDOW = 20  # levels that are averaged: a cut is in the middle of the quietest 200 ms
# Silence is nearer to the quietest levels than to the loud ones, in decibels.
QUIET, LOUD = 1, 90  # percentiles
LEAST_RANGE = 10  # decibels between them; with less there is no silence
ROUNDING = 1e-6  # hundredths of a second: 0.29 is a little less than 29 hundredths
FLOOR = 1e-10  # of a level, against log(0)


@dataclass(frozen=True)
class Cuts:
    """How a recording was cut.

    Attributes:
        clips: segments of the recording, in their order.
        in_speech: cuts where no pause was long enough, at the quietest place.
    """

    clips: list[Utterance]
    in_speech: int


def cut_recording(utterance: Utterance, limits: ClipLimits) -> Cuts:
    """Cut a recording that is longer than the limits allow into clips, at silences.

    Each clip is as long as the limits and the pauses allow; less than 20 ms are lost at the end. It
    keeps speaker, split, emotion and dimensions of the recording, which is its `parent`; the
    transcript, which is of the whole, is left out. Ids are those of the recording with `#1`, `#2`
    and so on.

    Raises:
        AudioError: the recording cannot be read.
    """
    begin = utterance.segment[0] if utterance.segment else 0.0
    levels = read_levels(utterance)
    bounds, in_speech = _bounds(levels.values, levels.step / utterance.speed, limits)
    ends = [_rounded(begin + place * levels.step) for place in bounds]
    clips = [
        replace(
            utterance,
            id=f"{utterance.id}#{number}",
            parent=utterance.id,
            segment=(start, end),
            duration=None,
            text="",
            response=None,
        )
        for number, (start, end) in enumerate(pairwise(ends), 1)
    ]
    return Cuts(clips, in_speech)


def _rounded(seconds: float) -> float:
    """Seconds with two decimals, rounded down: a clip must not end after its recording."""
    return math.floor(100 * seconds + ROUNDING) / 100


def _bounds(levels: NDArray[np.float64], step: float, limits: ClipLimits) -> tuple[list[int], int]:
    """Places of levels between which the clips lie, and the number of cuts in speech.

    A cut is in the last silence of the longest clip that the limits allow, or where the second half
    of that clip is quietest. What remains at the end is long enough, if the limits leave a choice.
    """
    decibels = 10 * np.log10(np.convolve(levels, np.ones(WINDOW) / WINDOW, mode="same") + FLOOR)
    low, high = np.percentile(decibels, [QUIET, LOUD])
    silent = (decibels <= (low + high) / 2) & (high - low >= LEAST_RANGE)
    # One level less, as ends are rounded.
    longest = int(limits.max_seconds / step) - 1
    shortest = int(np.ceil(limits.min_seconds / step)) + 1
    bounds, in_speech = [0], 0
    while len(levels) - bounds[-1] > longest:
        start = bounds[-1]
        last = max(start + shortest + 1, min(start + longest, len(levels) - shortest))
        pauses = start + shortest + np.flatnonzero(silent[start + shortest : last])
        if len(pauses):
            places = pauses[pauses >= _last_group(pauses)]
        else:
            places, in_speech = np.arange((start + last) // 2, last), in_speech + 1
        bounds.append(int(places[np.argmin(decibels[places])]))
    return [*bounds, len(levels)], in_speech


def _last_group(places: NDArray[np.int64]) -> int:
    """The first of the last places that follow one another without a gap."""
    gaps = np.flatnonzero(np.diff(places) > 1)
    return int(places[gaps[-1] + 1] if len(gaps) else places[0])
