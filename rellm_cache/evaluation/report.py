"""HTML report of a run: scores, training curves and sample answers on one self-contained page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import SAMPLE_RATE, WIDEST_LIMITS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.speaker_normalization import normalized_streams
from rellm_cache.errors import AudioError
from rellm_cache.inference.responders import Generation
from rellm_cache.training.loop import read_metrics
from rellm_cache.utils.console import percent
from rellm_cache.utils.html import render_page

REPORT = "report.html"
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 10, 28


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, SVG points in pixels, and its last value as text."""

    name: str
    points: str
    last: str


@dataclass(frozen=True)
class Chart:
    """A line chart over optimizer steps, of training and validation.

    Attributes:
        ticks: (pixel, label) of the vertical axis.
        steps: number of the last step.
    """

    title: str
    lines: list[Series]
    ticks: list[tuple[float, str]]
    steps: int


@dataclass(frozen=True)
class Sample:
    """An utterance to listen to as a data URI, or the problem with its clip, and its answer."""

    utterance: Utterance
    sound: str | None
    problem: str
    generation: Generation | None


def render_report(
    run: Path,
    recipe: Recipe,
    scores: dict[str, Any],
    chosen: Sequence[Utterance],
    answers: Sequence[Generation],
) -> str:
    """Render the HTML report of a run; the page needs no other file and no network.

    Args:
        scores: result of `Scores.to_json`.
        chosen: utterances to listen to.
        answers: answers to some of them.

    Raises:
        JournalError: a line of `metrics.jsonl` cannot be read.
    """
    by_id = {generation.id: generation for generation in answers}
    return render_page(
        "evaluation/report.html.j2",
        name=run.resolve().name,
        recipe=recipe,
        normalized=normalized_streams(recipe.encoders),
        recipe_toml=to_toml(recipe),
        scores=scores,
        charts=charts(list(read_metrics(run))),
        samples=[_sample(u, by_id.get(u.id)) for u in chosen],
        box=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
    )


def charts(rows: Sequence[dict[str, Any]]) -> list[Chart]:
    """Charts of all losses in `metrics.jsonl`, and of UA."""
    drawn = []
    keys = (key for row in rows for key in (*row, *row.get("validation", {})))
    losses = [key for key in dict.fromkeys(keys) if key.endswith("_loss")]
    for key in ("loss", *losses, "ua"):
        title = {"loss": "Total loss", "ua": "UA (mean recall)"}.get(key) or f"Loss {key[:-5]}"
        # A value that was not finite is null in the file and leaves a gap.
        curves = {
            "training": [
                (row["step"], float(row[key]))
                for row in rows
                if "validation" not in row and row.get(key) is not None
            ],
            "validation": [
                (row["step"], float(row["validation"][key]))
                for row in rows
                if row.get("validation", {}).get(key) is not None
            ],
        }
        if any(len(points) > 1 for points in curves.values()):
            shown = percent if key == "ua" else "{:.3g}".format
            drawn.append(_chart(title, {k: v for k, v in curves.items() if v}, shown))
    return drawn


def _chart(
    title: str, curves: dict[str, list[tuple[int, float]]], shown: Callable[[float], str]
) -> Chart:
    values = [y for points in curves.values() for _, y in points]
    steps = max(x for points in curves.values() for x, _ in points)
    low, high = min(values), max(values)
    if low == high:
        margin = max(0.5, abs(low) / 1e6)
        low, high = low - margin, high + margin
    span = high - low

    def x(step: int) -> float:
        return LEFT + step / max(steps, 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / span * (HEIGHT - TOP - BOTTOM)

    lines = [
        Series(
            name,
            " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points),
            shown(points[-1][1]),
        )
        for name, points in curves.items()
    ]
    ticks = [(y(v), shown(v)) for v in (low, low + span / 2, high)]
    return Chart(title, lines, ticks, steps)


def _sample(utterance: Utterance, generation: Generation | None) -> Sample:
    """A sample with its clip as a data URI of 16-bit WAV, or the reason why there is none."""
    try:
        clip = load_clip(utterance, WIDEST_LIMITS)
    except AudioError as error:
        return Sample(utterance, None, str(error), generation)
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.waveform, SAMPLE_RATE, "PCM_16", format="WAV")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Sample(utterance, f"data:audio/wav;base64,{encoded}", "", generation)
