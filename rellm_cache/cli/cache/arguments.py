"""Arguments and options that commands of `rellm cache` share."""

from pathlib import Path

import click

root_argument = click.argument(
    "root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("cache")
)
store_argument = click.argument(
    "store", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
DAMAGED = 1
SHOWN = 10


def show_ids(ids: list[str]) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
