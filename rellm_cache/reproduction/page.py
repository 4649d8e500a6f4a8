"""HTML page of Table I with plots and sample answers, in one file that needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.metrics.intervals import Interval
from rellm_cache.reproduction.answers import Record
from rellm_cache.reproduction.paper import METRICS
from rellm_cache.reproduction.table1 import Reproduction
from rellm_cache.reproduction.table_statistics import RowResult
from rellm_cache.utils.atomic_files import write_text
from rellm_cache.utils.html import render_page

WIDTH, LABELS, RIGHT, LINE, TOP, BOTTOM = 560, 190, 24, 26, 8, 26
SAMPLES = 4


@dataclass(frozen=True)
class Dot:
    """One row of a plot, in pixels; `paper` is None if the paper has no value."""

    title: str
    y: float
    x: float
    low: float
    high: float
    paper: float | None
    label: str


@dataclass(frozen=True)
class Plot:
    """Means of one metric with their spread, one dot for each model."""

    title: str  # name of the metric
    whiskers: str  # meaning of the whiskers
    dots: list[Dot]  # models in the order of the table
    ticks: list[tuple[float, str]]  # (pixel, label) of the axis
    height: float  # height of the drawing in pixels


def write_page(path: Path, found: Reproduction) -> None:
    """Write the page."""
    page = render_page(
        "reproduction/table1.html.j2",
        found=found,
        source=found.request.source,
        plots=[plot for metric in METRICS if (plot := draw_plot(found.rows, metric)) is not None],
        samples=choose_samples(found.records),
        titles={row.row.name: row.row.title for row in found.rows},
        box=(WIDTH, LABELS, RIGHT, BOTTOM),
    )
    write_text(path, page)


def draw_plot(rows: Sequence[RowResult], metric: str) -> Plot | None:
    """Plot of a metric; None if no row has a value."""
    found = [(row, span) for row in rows if (span := _span(row, metric)) is not None]
    if not found:
        return None
    values = [v for row, s in found for v in (s.low, s.high, row.paper.get(metric, s.value))]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - RIGHT)

    dots = []
    for place, (row, span) in enumerate(found):
        paper = row.paper.get(metric)
        dots.append(
            Dot(
                title=row.row.title,
                y=TOP + LINE * (place + 0.5),
                x=x(span.value),
                low=x(span.low),
                high=x(span.high),
                paper=None if paper is None else x(paper),
                label=f"{span.value:.3f}" + ("" if paper is None else f", paper {paper:.3f}"),
            )
        )
    ticks = [(x(v), f"{v:.2f}") for v in (low + margin, (low + high) / 2, high - margin)]
    whiskers = "standard deviation over folds" if metric == "UA" else "95 % interval of the mean"
    return Plot(metric, whiskers, dots, ticks, TOP + LINE * len(found) + BOTTOM)


def _span(row: RowResult, metric: str) -> Interval | None:
    """A row's mean and the ends of its whiskers."""
    if metric == "UA":
        ua = row.recognition.get(metric)
        if ua is None:
            return None
        sd = ua.sd or 0.0
        return Interval(ua.mean, ua.mean - sd, ua.mean + sd, 0.0)
    cell = row.empathy.get(metric)
    return None if cell is None else cell.interval


def choose_samples(records: Sequence[Record]) -> list[tuple[Record, Mapping[str, str]]]:
    """Utterances of different emotions, each with the answers of all models."""
    by_utterance: dict[str, dict[str, str]] = {}
    first: dict[str, Record] = {}
    for record in records:
        by_utterance.setdefault(record.id, {})[record.row] = record.response
        first.setdefault(record.id, record)
    most = max(map(len, by_utterance.values()), default=0)
    chosen: dict[str, Record] = {}
    for utterance, record in first.items():
        if len(by_utterance[utterance]) == most:
            chosen.setdefault(record.emotion, record)
    return [(record, by_utterance[record.id]) for record in list(chosen.values())[:SAMPLES]]
