"""Options shared by several commands, and printing of tables."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from rellm_cache.errors import StoreError
from rellm_cache.store.remote.mirror_paths import is_url

CLIPS_FAILED = 3
Command = TypeVar("Command", bound=Callable[..., Any])

run_argument = click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
manifest_argument = click.argument("manifest", type=click.Path(path_type=Path, exists=True))
manifest_folder_option = click.option(
    "--manifest",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Manifest folder with train.jsonl and, for validation, validation.jsonl.",
)
recipe_option = click.option(
    "--recipe",
    required=True,
    metavar="NAME|FILE",
    help="Name of a shipped recipe (see `rellm recipes`) or a TOML file.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one recipe field, for example training.epochs=3 or llm=none. Repeatable.",
)


class CacheRoot(click.ParamType[Path]):
    """Folder of stores. For a URL it is the folder of its mirror, which is brought up to date.

    Args:
        exists: whether a folder must exist.
    """

    name = "folder or url"

    def __init__(self, exists: bool = False) -> None:
        self._folder = click.Path(path_type=Path, exists=exists, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder; `RellmError` if the URL cannot be used."""
        if isinstance(value, str) and is_url(value):
            return self._open(value)
        return Path(self._folder.convert(value, param, ctx))

    def _open(self, url: str) -> Path:
        from rellm_cache.store.remote.mirror import open_mirror

        return open_mirror(url)


class StorePath(CacheRoot):
    """Folder of one store, or its URL."""

    name = "store"

    def _open(self, url: str) -> Path:
        root, _, name = url.rstrip("/").rpartition("/")
        store = super()._open(root) / name
        if not store.is_dir():
            raise StoreError(f"{url}: no such store; `rellm cache info {root}` lists the stores")
        return store


cache_option = click.option(
    "--cache",
    type=CacheRoot(),
    default="cache",
    show_default=True,
    metavar="FOLDER|URL",
    help="Folder of feature stores, or its URL, for example s3://bucket/folder.",
)


run_cache_option = click.option(
    "--cache",
    type=CacheRoot(),
    metavar="FOLDER|URL",
    help="Folder of feature stores, or its URL; by default the cache that the run was trained "
    "from.",
)


def batch_size_option(default: int, help_text: str) -> Callable[[Command], Command]:
    """The option `--batch-size`."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help=help_text,
    )


def out_option(help_text: str) -> Callable[[Command], Command]:
    """The required option `--out` for a folder."""
    return click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        help=help_text,
    )


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
)


class OrderedGroup(click.Group):
    """Command group that lists commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        return list(self.commands)


def show_next(
    command: Sequence[str], recipe: str, overrides: Sequence[str], rest: Sequence[str]
) -> None:
    """Print the next command of the workflow, quoted for a shell."""
    given = [word for override in overrides for word in ("--set", override)]
    click.echo(f"Next: {shlex.join(['rellm', *command, '--recipe', recipe, *given, *rest])}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output; all columns but the first are right-aligned."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 120, soft_wrap=False).print(table)


def percent(value: float) -> str:
    """Format 0.7654 as 76.5 %."""
    return f"{100 * value:.1f} %"


def byte_size(count: int) -> str:
    """Format bytes as MB or, from 1000 MB, as GB, with one decimal."""
    return f"{count / 1e6:.1f} MB" if count < 999_950_000 else f"{count / 1e9:.1f} GB"
