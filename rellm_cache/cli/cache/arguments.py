"""Arguments and output that the commands of `rellm cache` share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from rellm_cache.cli.options import CacheRoot, StorePath
from rellm_cache.store.remote.mirror_paths import display_path

root_argument = click.argument("root", type=CacheRoot(exists=True), default="cache")
store_argument = click.argument("store", type=StorePath(exists=True))
DAMAGED = 1
SHOWN = 10


def echo_json(root: Path, reports: Iterable[Any], **others: object) -> None:
    """Print one JSON object with the report of each store."""
    stores = [vars(report) | {"store": report.store.name} for report in reports]
    click.echo(json.dumps({"root": display_path(root), "stores": stores, **others}))


def show_ids(ids: list[str]) -> str:
    """Format the first ids and the number of others."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
