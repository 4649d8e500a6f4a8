"""rellm bench: time and memory of a recipe's training on this machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, print_table
from rellm_cache.utils.console import counted, duration

if TYPE_CHECKING:
    from rellm_cache.speed.report import BenchReport


@click.command()
@options.recipe
@click.option(
    "--seconds",
    type=options.FiniteRange(min=0, min_open=True),
    default=120.0,
    help="Time for all of it. Two steps are taken even if they need longer.",
)
@click.option(
    "--random", is_flag=True, help="Take random weights although the LLM is on this machine."
)
@click.option(
    "--memory-gb",
    type=options.FiniteRange(min=0, min_open=True),
    help="Imitate a GPU with this much memory: PyTorch gets it without the 0.5 GB of CUDA itself.",
)
@click.option("--json", "file", type=options.FILE, help="Write all figures to this file, too.")
def bench(
    recipe: str,
    overrides: tuple[str, ...],
    seconds: float,
    random: bool,
    memory_gb: float | None,
    file: Path | None,
) -> None:
    """Measure training on this machine: speed, memory, epoch time.

    Steps of the real trainer run on made frames and responses of IEMOCAP's size: no corpus, cache
    or encoder is needed. The LLM is the recipe's own where its folder is on this machine. Otherwise
    it has random weights of the same shape, which takes as long; the output says which. Nothing is
    downloaded but, for an LLM of no shipped recipe, its config.json.

    The last line is a row for the table of docs/what-it-costs.md. `rellm benchmark` is another
    command: it compares scores with published ones.
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.speed.run import BenchSettings
    from rellm_cache.speed.run import bench as measure
    from rellm_cache.utils.atomic_files import write_json

    report = measure(load_recipe(recipe, overrides), BenchSettings(seconds, random, memory_gb))
    command = command_line(recipe, overrides, random, memory_gb)
    show(report, command)
    if file is not None:
        write_json(file, report.to_json(command))


def command_line(
    recipe: str, overrides: tuple[str, ...], random: bool, memory_gb: float | None
) -> str:
    """The command with all options that change what is measured."""
    words = ["rellm", "bench", "--recipe", recipe]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--random"] if random else []
    words += ["--memory-gb", f"{memory_gb:g}"] if memory_gb else []
    return shlex.join(words)


def show(report: "BenchReport", command: str) -> None:
    """Print the figures and the row."""
    click.echo(f"Machine: {report.machine}, {report.dtype}")
    click.echo(f"Model: {report.model}")
    if report.clips != report.recipe_clips:
        click.echo(
            f"Steps have {counted(report.clips, 'clip')}, not the recipe's {report.recipe_clips}"
        )
    times = report.step_seconds
    count = counted(len(times), "step")
    rows = [
        [f"a step: median of {count}", f"{report.seconds:.3g} s"],
        ["fastest and slowest", f"{times[0]:.3g} to {times[-1]:.3g} s"],
        ["speed", report.speed],
        ["operations a second", f"{report.operations / report.seconds:.2g}"],
        [f"of {report.peak_source} (MFU)", f"{100 * report.mfu:.1f} %"],
        ["peak of tensors on the GPU", byte_size(report.device_bytes)],
        ["peak on the GPU with the allocator's gaps", byte_size(report.reserved_bytes)],
        ["peak of the process", byte_size(report.resident_bytes)],
        ["of it libraries, before the model", byte_size(report.start_bytes)],
        ["an epoch of IEMOCAP", duration(report.epoch_seconds)],
    ]
    if report.busy:
        click.echo(f"Warning: {report.busy}; measure again when it has ended", err=True)
    if not report.reserved_bytes:
        rows = [row for row in rows if "GPU" not in row[0]]
    print_table(f"{counted(report.clips, 'clip')} a step", ["figure", "value"], rows)
    click.echo("Row for docs/what-it-costs.md:")
    click.echo(report.row(command))
