"""Options shared by the commands of `rellm prepare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

root_argument = click.argument(
    "root", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
out_option = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the manifest.",
)
seed_option = click.option(
    "--seed", default=1, show_default=True, help="Seed of random draws; the report records it."
)
partial_option = click.option(
    "--allow-partial",
    is_flag=True,
    help="Accept a corpus with fewer or more clips than expected.",
)


def limits(command: Command) -> Command:
    """Add `--min-seconds` and `--max-seconds`."""
    longest = click.option(
        "--max-seconds", default=30.0, show_default=True, help="Longer clips are left out."
    )
    shortest = click.option(
        "--min-seconds", default=1.0, show_default=True, help="Shorter clips are left out."
    )
    return shortest(longest(command))


def splits_option(*names: str, text: str) -> Callable[[Command], Command]:
    """Add `--splits`: one of `names`, the first by default."""
    return click.option(
        "--splits", type=click.Choice(names), default=names[0], show_default=True, help=text
    )
