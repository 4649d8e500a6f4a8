"""Printing of tables and JSON, formats of numbers, and exit codes."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import percent

DAMAGED = 1
SOME_FAILED = 3  # done, but some clips or runs failed
SHOWN_IDS = 10


def print_json(value: Any) -> None:
    """Print a result as one line of JSON."""
    click.echo(json.dumps(value))


def store_rows(reports: Iterable[Any]) -> list[dict[str, Any]]:
    """The fields of reports about stores, with the name of the store instead of its path."""
    return [vars(report) | {"store": report.store.name} for report in reports]


def print_stores(root: Path, reports: Iterable[Any], **others: Any) -> None:
    """Print reports about the stores under a cache root as JSON."""
    print_json({"root": display_path(root), "stores": store_rows(reports), **others})


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; all columns but the first are right-aligned, and None is a dash."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    Console(width=None if Console().is_terminal else 120, soft_wrap=False).print(table)


def print_layer_weights(weights: Mapping[str, Mapping[str, float]]) -> None:
    """Print the learned weights of layers, a line for each stream; nothing without such weights."""
    for stream, own in weights.items():
        shown = ", ".join(f"layer {layer} {percent(weight)}" for layer, weight in own.items())
        click.echo(f"Learned weights of stream {stream}: {shown}")


def print_next(
    command: Sequence[str], recipe: str, overrides: Sequence[str], rest: Sequence[str]
) -> None:
    """Print the next command of the workflow, quoted for a shell."""
    given = [word for override in overrides for word in ("--set", override)]
    click.echo(f"Next: {shlex.join(['rellm', *command, '--recipe', recipe, *given, *rest])}")


def decimals(value: float | None, digits: int) -> str | None:
    """Format a number; None stays None."""
    return None if value is None else f"{value:.{digits}f}"


def byte_size(count: int) -> str:
    """Format bytes as MB or, from 1000 MB, as GB, with one decimal."""
    return f"{count / 1e6:.1f} MB" if count < 999_950_000 else f"{count / 1e9:.1f} GB"


def first_ids(ids: Sequence[str]) -> str:
    """Format the first ids and the number of others."""
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more
