"""Figures: bars and plane of what was heard, and waveforms."""

import re

import numpy as np
import pytest

from rellm_cache.inference.responders import Recognition
from rellm_cache.serving.conversation import PEAKS, peaks
from rellm_cache.serving.figures import MARGIN, SIZE, heard_html
from rellm_cache.serving.served_run import Heard


def heard(dimensions: dict[str, float] | None, transcript: str | None = None) -> Heard:
    found = Recognition("sad", {"happy": 0.25, "sad": 0.75}, dimensions)
    return Heard(2.0, transcript, found, None)


def dot(html: str) -> tuple[float, float, float]:
    found = re.search(r'class="halo" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', html)
    assert found
    return float(found[1]), float(found[2]), float(found[3])


def test_bars_have_the_recipes_order_and_the_likeliest_is_marked() -> None:
    html = heard_html(heard(None))
    rows = re.findall(r'<tr( class="first")?><th scope="row">(\w+)</th>.*?width: ([\d.]+)%', html)
    assert rows == [("", "happy", "25.0"), (' class="first"', "sad", "75.0")]
    assert "no trained dimensions" in html


def test_the_dot_is_at_valence_and_arousal_and_grows_with_dominance() -> None:
    x, y, r = dot(heard_html(heard({"arousal": 1.0, "dominance": 0.0, "valence": 0.0})))
    assert (x, y) == (MARGIN, MARGIN)
    x, y, larger = dot(heard_html(heard({"arousal": 0.0, "dominance": 1.0, "valence": 1.0})))
    assert (x, y) == (SIZE - MARGIN, SIZE - MARGIN)
    assert larger > r
    outside = {"arousal": 1.7, "dominance": -1.0, "valence": 0.5}
    html = heard_html(heard(outside))
    assert dot(html) == (SIZE / 2, MARGIN, r)
    assert "arousal <b>1.70</b>" in html


def test_texts_are_escaped_and_nothing_heard_is_nothing_drawn() -> None:
    html = heard_html(heard(None, "<script>alert(1)</script>"))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "(no words)" in heard_html(heard(None, ""))
    assert heard_html(None).strip() == ""
    assert "reads the transcript" in heard_html(Heard(1.0, "Hello.", None, None))


def test_peaks_are_relative_to_the_loudest() -> None:
    waveform = np.zeros(PEAKS * 10, np.float32)
    waveform[5], waveform[-1] = 0.25, -0.5
    found = peaks(waveform)
    assert (found[0], found[1], found[-1]) == (0.5, 0.0, 1.0)
    assert len(found) == PEAKS
    assert peaks(np.zeros(100, np.float32)) == pytest.approx([0.0] * PEAKS)
