"""rellm demo: the whole workflow on clips that come with the package."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, print_table
from rellm_cache.utils.console import percent

if TYPE_CHECKING:
    from rellm_cache.demo.run import DemoReport


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
    """Run the whole workflow on embedded clips, in minutes.

    The demo uses small real models and synthetic speech. Two CPU cores are enough.
    """
    from rellm_cache.demo.run import run_demo

    show(run_demo(cache, out, click.echo))


def show(report: "DemoReport") -> None:
    """Print scores, answers and the path of the report."""
    rows = []
    for name, scores in (
        ("speech + emotion stream", report.with_emotion),
        ("speech stream alone", report.without_emotion),
        ("speech LLM, both streams", report.speech_llm),
    ):
        recognition = scores.head.recognition
        ccc = [f"{scores.head.ccc[d]:.3f}" for d in ("arousal", "dominance", "valence")]
        llm = "–" if scores.llm is None else percent(scores.llm.likelihood.ua)
        rows.append([name, percent(recognition.ua) if recognition else "–", llm, *ccc])
    columns = ["on unseen voices", "UA, head", "UA, LLM", "arousal", "dominance", "valence"]
    click.echo()
    print_table("Recognition (UA) and dimensions (CCC)", columns, rows)
    for sample in report.samples:
        click.echo(f"{sample.id}, head: {sample.emotion}, text: {sample.text}")
        click.echo(f"  {sample.response}")
    click.echo()
    click.echo(f"Cache: {byte_size(report.cache_bytes)}")
    click.echo(
        f"Epoch of the heads: {report.epoch.cached:.1f} s from the cache, "
        f"{report.epoch.live:.1f} s with the encoders in the loop ({report.epoch.ratio:.0f} times)"
    )
    click.echo(f"Report: {report.report}")
    click.echo(f"Done in {report.seconds:.0f} s")
