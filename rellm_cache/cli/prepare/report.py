"""Printed reports of `rellm prepare`, and statistics of any manifest."""

from typing import TYPE_CHECKING, Any

import click

from rellm_cache.cli.output import SOME_FAILED, print_table
from rellm_cache.utils.console import counted, percent

if TYPE_CHECKING:
    from pathlib import Path

    from rellm_cache.corpus.prepare import PrepareReport
    from rellm_cache.corpus.readers.base import Corpus
    from rellm_cache.corpus.statistics import Survey

BAR = 40
SHOWN_SPEAKERS = 30
SHOWN_LINES = 3
SHOWN_CLIPS = 10
EXIT_CODES = "Exit code 3: done, but sound files are missing or cannot be read; they are listed."


def prepare_and_show(corpus: str, root: "Path", out: "Path", **options: Any) -> int:
    """Prepare the corpus of a name and print the report; returns the exit code.

    Args:
        options: further arguments of `rellm.prepare`.
    """
    from rellm_cache import api

    return _show_report(api.prepare(corpus, root, out, **options))


def _show_report(report: "PrepareReport") -> int:
    from rellm_cache.corpus.clip_limits import REPORT

    corpus = report.corpus
    drawn = "" if corpus.seed is None else f", seed {corpus.seed}"
    split = f", splits: {corpus.splits}{drawn}" if corpus.splits else ""
    _show_counts(f"{corpus.name}{split}; {report.hours:.2f} hours of audio", report.survey)
    _show_totals(corpus)
    for note in (*report.forms, *report.notes):
        click.echo(note)
    _show_problems(corpus)
    show_survey(report.survey)
    if report.excluded:
        left_out = counted(len(report.excluded), "clip")
        click.echo(f"{left_out} left out, listed in {report.out}/excluded.jsonl:")
        for row in report.excluded[:SHOWN_CLIPS]:
            click.echo(f"  {row['id']}: {row['reason']}")
    missing = counted(report.missing, "sound file")
    click.echo(f"{missing} missing, {report.unreadable} unreadable")
    click.echo(f"Report: {report.out / REPORT}")
    click.echo(f"Manifest: {report.out}")
    return SOME_FAILED if report.missing or report.unreadable else 0


def show_folds(reports: "dict[int, PrepareReport]") -> int:
    """Print the reports of the folds of a corpus; returns the exit code."""
    first = next(iter(reports.values()))
    splits = list(dict.fromkeys(split for report in reports.values() for split in report.kept))
    rows = [
        [
            str(fold),
            *(str(report.kept.get(split, 0)) for split in splits),
            str(len(report.excluded)),
        ]
        for fold, report in reports.items()
    ]
    print_table(f"{first.corpus.name}: clips by fold", ["fold", *splits, "left out"], rows)
    emotions = sorted({e for r in reports.values() for c in r.survey.emotions.values() for e in c})
    click.echo(f"Emotions: {', '.join(emotions)}")
    notes = {note: None for report in reports.values() for note in report.notes}
    for note in (*notes, *first.forms):
        click.echo(note)
    for fold, report in reports.items():
        for total in report.corpus.totals:
            if total.found != total.expected:
                click.echo(
                    f"Warning: fold {fold}, {total.name}: found {total.found} clips, expected "
                    f"{total.expected}",
                    err=True,
                )
        for o in report.survey.overlaps:
            if o.kind == "speakers":
                shared = counted(o.shared, "speaker")
                click.echo(f"Fold {fold}: {o.first} and {o.second} share {shared}")
        if report.corpus.problems.lines:
            click.echo(f"Fold {fold}:")
            _show_problems(report.corpus)
    if all(not _differs(report) for report in reports.values()):
        click.echo("All clips of EmoBox's folds are there")
    unreadable = sum(report.unreadable for report in reports.values())
    missing = sum(report.missing for report in reports.values())
    click.echo(f"{counted(missing, 'sound file')} missing, {unreadable} unreadable")
    click.echo(f"Manifests: {first.out.parent}/fold_K")
    return SOME_FAILED if missing or unreadable else 0


def _differs(report: "PrepareReport") -> bool:
    return any(total.found != total.expected for total in report.corpus.totals)


def show_survey(survey: "Survey") -> None:
    """Print durations, dimensions, overlap of splits, and warnings."""
    _show_durations(survey)
    _show_dimensions(survey)
    if survey.without_text:
        click.echo(f"{counted(survey.without_text, 'clip has', 'clips have')} no text")
    for o in survey.overlaps:
        click.echo(
            f"{o.first} and {o.second} share "
            f"{counted(o.shared, o.kind.removesuffix('s'))}: {o.clips} of {o.total} clips of "
            f"{o.second} ({percent(o.clips / o.total)})"
        )
    if len(survey.emotions) > 1 and not survey.overlaps:
        click.echo("No two splits share a speaker or a text")
    for warning in survey.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _show_counts(title: str, survey: "Survey") -> None:
    emotions = sorted({e for counts in survey.emotions.values() for e in counts})
    rows = [
        [split, f"{sum(counts.values())}", *(f"{counts.get(e, 0)}" for e in emotions)]
        for split, counts in survey.emotions.items()
    ]
    click.echo(title)
    print_table("", ["split", "clips", *emotions], rows)
    speakers = sorted({s for counts in survey.speakers.values() for s in counts})
    if 0 < len(speakers) <= SHOWN_SPEAKERS:
        splits = list(survey.speakers)
        rows = [[s, *(f"{survey.speakers[p].get(s, 0)}" for p in splits)] for s in speakers]
        print_table("", ["speaker", *splits], rows)
    elif speakers:
        counts = ", ".join(f"{len(counts)} {split}" for split, counts in survey.speakers.items())
        click.echo(f"{len(speakers)} speakers: {counts}")


def _show_totals(corpus: "Corpus") -> None:
    from rellm_cache.corpus.readers.base import wrong_totals

    wrong = wrong_totals(corpus)
    if corpus.totals and not wrong:
        click.echo(f"The corpus is complete: {len(corpus.totals)} counts are as expected")
    for total in wrong:
        click.echo(f"Warning: {total}", err=True)


def _show_problems(corpus: "Corpus") -> None:
    for kind, lines in corpus.problems.lines.items():
        click.echo(f"{len(lines)} {kind}, for example")
        for line in lines[:SHOWN_LINES]:
            click.echo(f"  {line}")


def _show_durations(survey: "Survey") -> None:
    most = max(survey.durations.values(), default=0)
    for name, count in survey.durations.items():
        bar = "█" * round(BAR * count / most)
        click.echo(f"{name:>8} {count:>7} {bar}".rstrip())


def _show_dimensions(survey: "Survey") -> None:
    for source, summary in survey.dimensions.items():
        extremes = [
            f"{low:.2f}-{high:.2f}" for low, high in zip(summary.low, summary.high, strict=True)
        ]
        means = [[e, *(f"{v:.2f}" for v in vad)] for e, vad in summary.means.items()]
        click.echo(f"{source} dimensions of {counted(summary.clips, 'clip')}, means by emotion")
        columns = ["", "arousal", "dominance", "valence"]
        print_table("", columns, [["range", *extremes], *means])
