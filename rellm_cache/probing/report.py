"""Report of probes: scores of every layer for every target, as JSON and as a page with charts.

<out>/probe.json    scores with intervals, folds, what was left out
<out>/probe.html    the same drawn
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.errors import ConfigError
from rellm_cache.utils.atomic_files import write_json, write_text
from rellm_cache.utils.html import render_page

PROBE_JSON, PROBE_PAGE = "probe.json", "probe.html"


@dataclass(frozen=True)
class ProbedTarget:
    """What was predicted.

    Attributes:
        measure: "UA" of classes, "CCC" of a dimension.
        classes: number of classes; 0 for a dimension.
        chance: expected score of guessing.
        folds_by: "speaker": no speaker is in training and test at once; or "clip".
    """

    name: str
    measure: str
    clips: int
    classes: int
    chance: float
    folds_by: str


@dataclass(frozen=True)
class ProbeScore:
    """Score of one linear probe.

    Attributes:
        stream: of the recipe; empty for all together.
        name: of encoder and layer, as in `whisper-tiny.en-layer2`.
        low: lower end of the 95 % bootstrap interval over clips; `high` is the upper one.
        values: numbers in the vector of a clip.
    """

    target: str
    stream: str
    name: str
    value: float
    low: float
    high: float
    values: int


@dataclass(frozen=True)
class ProbeReport:
    """Scores of all probes.

    Attributes:
        clips: number of clips in all stores.
        skipped: target → why it was not probed.
        notes: stores and clips that were left out.
    """

    recipe: str
    manifest: str
    clips: int
    targets: list[ProbedTarget]
    scores: list[ProbeScore]
    skipped: dict[str, str]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """Names of what was probed, in order."""
        return list(dict.fromkeys(score.name for score in self.scores))

    def of(self, target: str) -> list[ProbeScore]:
        """Scores of a target, in order."""
        return [score for score in self.scores if score.target == target]

    def best(self, target: str) -> ProbeScore:
        """The best single layer for a target; `ConfigError` if the target was not probed."""
        scores = [score for score in self.of(target) if score.stream]
        if not scores:
            reason = self.skipped.get(target, "it was not asked for")
            raise ConfigError(f"target {target!r} was not probed: {reason}")
        return max(scores, key=lambda score: score.value)

    def to_json(self) -> dict[str, Any]:
        """Content of `probe.json`."""
        return dataclasses.asdict(self)

    def write(self, out: Path) -> None:
        """Write both files; each is replaced atomically."""
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / PROBE_JSON, self.to_json())
        write_text(out / PROBE_PAGE, render_report(self))


ROW, AXIS, RIGHT, TOP, BOTTOM = 24, 270, 60, 10, 28  # of a chart, in pixels
LETTER, GAP = 7, 20  # a letter of a name at most, and the space around names


@dataclass(frozen=True)
class Mark:
    """One probe in a chart: its row, and places on the axis."""

    score: ProbeScore
    y: float
    x: float
    low: float
    high: float
    colour: int
    best: bool


@dataclass(frozen=True)
class Chart:
    """Scores of one target: a row for each probe."""

    target: ProbedTarget
    marks: list[Mark]
    ticks: list[tuple[float, str]]  # place on the axis, label
    chance: float
    left: float  # where the axis begins
    height: float


def render_report(report: ProbeReport) -> str:
    """Render the HTML page; it needs no other file and no network."""
    return render_page(
        "probing/report.html.j2",
        report=report,
        charts=[draw(report, target) for target in report.targets],
        box=(AXIS, RIGHT, TOP, BOTTOM),
    )


def draw(report: ProbeReport, target: ProbedTarget) -> Chart:
    """Lay out the chart of a target on an axis from at most 0 to 1."""
    scores, best = report.of(target.name), report.best(target.name)
    least = min(0.0, *(score.low for score in scores))
    left = GAP + LETTER * max(len(score.name) for score in scores)
    streams = list(dict.fromkeys(score.stream for score in report.scores))

    def x(value: float) -> float:
        return left + (value - least) / (1 - least) * AXIS

    marks = [
        Mark(
            score,
            y=TOP + ROW * (place + 0.5),
            x=x(score.value),
            low=x(score.low),
            high=x(score.high),
            colour=streams.index(score.stream) % 4,
            best=score is best,
        )
        for place, score in enumerate(scores)
    ]
    ticks = [(x(value), f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    height = TOP + ROW * len(scores) + BOTTOM
    return Chart(target, marks, ticks, x(target.chance), left, height)
