"""rellm cache: what the cache holds."""

import json
from pathlib import Path

import click

from rellm_cache.cli.options import json_option, megabytes, print_table


@click.group()
def cache() -> None:
    """Look at the feature cache."""


@cache.command()
@click.argument(
    "root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("cache")
)
@json_option
def info(root: Path, as_json: bool) -> None:
    """What each store under ROOT holds: encoder, clips, hours, size, licence."""
    from rellm_cache.stages.cache_info import cache_info

    stores = cache_info(root)
    if as_json:
        click.echo(json.dumps({"root": str(root), "stores": [s.to_json() for s in stores]}))
        return
    rows = [
        [
            s.name,
            f"{s.clips}",
            f"{s.hours:.2f}",
            f"{s.frame_size}",
            megabytes(s.bytes),
            f"{s.parts}",
            f"{s.failed}",
            s.licence,
        ]
        for s in stores
    ]
    columns = ["store", "clips", "hours", "values", "size", "parts", "failed", "licence"]
    print_table(str(root), columns, rows)
