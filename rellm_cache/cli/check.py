"""rellm check: prove that a folder of results is as it was written."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import DAMAGED, print_json
from rellm_cache.utils.console import counted


@click.command()
@options.run_argument
@click.option(
    "--accept",
    is_flag=True,
    help="First record all files as they are now: after a change by hand, or for a run of an "
    "older version, which has no checksums.",
)
@options.as_json
def check(run: Path, accept: bool, as_json: bool) -> int:
    """Compare a run with its checksums.

    RUN is a run folder, a published folder or the folder of an empathy scorer. Every result is
    compared with results.sha256 or SHA256SUMS, weights must be finite, and checkpoints intact.
    Without --accept nothing changes. Commands compare each file that they read in the same way.

    Exit code 1: something is damaged or missing.
    """
    from rellm_cache.runs.check import check_folder

    found = check_folder(run, accept)
    if as_json:
        print_json(vars(found) | {"folder": str(found.folder)})
    else:
        for name, problem in found.damaged.items():
            click.echo(f"Damaged: {name}: {problem}")
        if found.unrecorded:
            click.echo(f"Without a checksum: {', '.join(found.unrecorded)}")
        click.echo(f"{run}: {counted(len(found.intact), 'file')} intact")
    return DAMAGED if found.damaged else 0
