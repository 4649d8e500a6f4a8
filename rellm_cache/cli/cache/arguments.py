"""Arguments and output that the commands of `rellm cache` share."""

import click

from rellm_cache.cli.options import CacheRoot, StorePath

root_argument = click.argument("root", type=CacheRoot(exists=True), default="cache")
store_argument = click.argument("store", type=StorePath(exists=True))
DAMAGED = 1
SHOWN = 10


def show_ids(ids: list[str]) -> str:
    """Format the first ids and the number of others."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more
