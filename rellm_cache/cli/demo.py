"""rellm demo: the whole workflow on clips that come with the package."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, print_table
from rellm_cache.utils.console import counted, percent

if TYPE_CHECKING:
    from rellm_cache.demo.run import DemoReport, Recognized
    from rellm_cache.metrics.intervals import Interval


@click.command()
@click.option(
    "--cache",
    type=options.FOLDER,
    default=Path("cache"),
    help="Folder of feature stores and of the demo's models.",
)
@click.option(
    "--out", type=options.FOLDER, default=Path("runs/demo"), help="Folder for manifests and runs."
)
def demo(cache: Path, out: Path) -> None:
    """Train and evaluate on embedded clips, in minutes.

    The demo uses small real models and synthetic speech. Two CPU cores are enough. It prints how
    well emotions are recognized in voices that training never heard, with and without the emotion
    stream, and how the speech LLM answers the same sentence in two emotions.
    """
    from rellm_cache.demo.run import run_demo

    show(run_demo(cache, out, click.echo))


def show(report: "DemoReport") -> None:
    """Print recognition with intervals, answers side by side, and what to do next."""
    clips = next(iter(report.runs.values())).scores.clips
    titles = {
        "heads": "heads, speech + emotion stream",
        "heads-speech-only": "heads, speech stream alone",
        "small": "speech LLM, both streams",
    }
    rows: list[list[str | None]] = []
    for name, own in report.runs.items():
        rows.append([titles[name], *_ua(own.head), *_dimensions(own)])
        if own.llm is not None:
            rows.append(["  emotion named by its frozen LLM", *_ua(own.llm), None])
    rows.append(["gain by the emotion stream (heads)", *_ua(report.gain, "+"), None])
    click.echo()
    print_table(
        f"Five emotions (chance 20.0 %), {counted(clips, 'clip')} of unseen voices",
        ["model", "UA", "95 % interval", "CCC arousal, dominance, valence"],
        rows,
    )
    click.echo("Answers of the speech LLM to one sentence in two emotions")
    for place, (clip, answer) in enumerate(report.shown):
        if place % 2 == 0:
            click.echo(f'\n  {clip.speaker} says "{clip.text}"')
        click.echo(f"    {clip.emotion or '':9} {answer.response}")
    counts = report.counts
    click.echo(
        f"\nOf {counted(counts.answers, 'answer')} {counts.repeating} repeat themselves and "
        f"{counts.cut} are cut. In {percent(counts.different / counts.pairs)} of {counts.pairs} "
        "pairs of clips that differ in emotion alone, the answers differ.\n"
    )
    click.echo(
        f"Stores of the demo: {byte_size(report.cache_bytes)}; "
        f"{report.epoch.steps} steps of the heads: "
        f"{report.epoch.cached:.1f} s from the cache, {report.epoch.live:.1f} s with the encoders "
        f"in the loop ({report.epoch.ratio:.0f} times)"
    )
    click.echo(f"Done in {report.seconds:.0f} s")
    click.echo(f"Report: {report.report}")
    click.echo(f"Speak to it: {shlex.join(['rellm', 'serve', str(report.run)])}")


def _ua(found: "Interval", sign: str = "") -> tuple[str, str]:
    """UA and its interval in percent."""
    low, high = (f"{100 * value:{sign}.0f}" for value in (found.low, found.high))
    return percent(found.value, sign), f"{low} to {high}"


def _dimensions(run: "Recognized") -> list[str]:
    ccc = run.scores.head.ccc
    return ["  ".join(f"{ccc[name]:.2f}" for name in ("arousal", "dominance", "valence"))]
