"""Figures of what was heard: emotion probabilities as bars, dimensions as a dot in a plane."""

from rellm_cache.inference.responders import Recognition
from rellm_cache.serving.served_run import Heard
from rellm_cache.utils.html import render_page

SIZE = 220  # of the plane, in the units of the drawing
MARGIN = 26
DOT = (5.0, 15.0)  # radius at dominance 0 and 1


def heard_html(heard: Heard | None) -> str:
    """Transcript, bars and plane of a clip as HTML; nothing before the first clip."""
    found = heard.recognition if heard is not None else None
    return render_page(
        "serving/heard.html.j2",
        heard=heard,
        found=found,
        dot=_dot(found),
        size=SIZE,
        margin=MARGIN,
    )


def _dot(found: Recognition | None) -> dict[str, float] | None:
    """Place and radius of the dot; values outside 0..1 are drawn at the edge."""
    if found is None or found.dimensions is None:
        return None
    inside = {name: min(max(value, 0.0), 1.0) for name, value in found.dimensions.items()}
    room = SIZE - 2 * MARGIN
    return {
        "x": MARGIN + room * inside["valence"],
        "y": SIZE - MARGIN - room * inside["arousal"],
        "r": DOT[0] + (DOT[1] - DOT[0]) * inside["dominance"],
    }
