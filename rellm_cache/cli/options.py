"""Options and arguments that several commands share, and types of their values."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rellm_cache.corpus.clip_limits import (
    LONGEST_SECONDS,
    MAX_SECONDS,
    MIN_SECONDS,
    SHORTEST_SECONDS,
)
from rellm_cache.errors import RellmError
from rellm_cache.store.remote.mirror_paths import is_url
from rellm_cache.utils.near_names import did_you_mean

Command = TypeVar("Command", bound=Callable[..., Any])


class NamedPath(click.Path):
    """Path with a name that can be written into files.

    Empty text is refused: `--out "$OUT"` without a value of OUT does not mean this folder.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error if it is empty or not UTF-8."""
        text = os.fspath(value)
        if not text:
            self.fail("found empty text, expected a path; for this folder write `.`", param, ctx)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(f"found {text!a}, a name that is not UTF-8; rename it", param, ctx)
        return super().convert(value, param, ctx)


class InputPath(NamedPath):
    """Path of an input. One that cannot be used is an error of the input, not of usage."""

    def __init__(self, file: bool = True, folder: bool = True) -> None:
        super().__init__(exists=True, file_okay=file, dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; `RellmError` if there is none, or it is something else than expected."""
        path = Path(value)
        kinds = (("file", self.file_okay), ("folder", self.dir_okay))
        wanted = " or ".join(kind for kind, okay in kinds if okay)
        if not os.fspath(value):
            raise RellmError(f"found an empty path, expected a {wanted}; check the path")
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if os.path.lexists(path):
                raise RellmError(f"{path}: expected a {wanted}; {error.message}") from error
            near = did_you_mean(path) or "; check the path"
            raise RellmError(f"{path}: no such {wanted}{near}") from error


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which is in every range for click, and infinity are refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error if it is not finite or outside the range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


EXISTING = InputPath()
EXISTING_FILE = InputPath(folder=False)
EXISTING_FOLDER = InputPath(file=False)
ANY_PATH = NamedPath(path_type=Path)
FILE = NamedPath(path_type=Path, dir_okay=False)
FOLDER = NamedPath(path_type=Path, file_okay=False)
COUNT = click.IntRange(min=1)
ARRAY_FORMATS = ("parquet", "safetensors", "npy")  # of `corpus.array_files`


class CacheRoot(click.ParamType[Path]):
    """Folder of stores. For a URL it is the folder of its mirror, which is brought up to date.

    Args:
        exists: whether a folder must exist.
    """

    name = "folder or url"

    def __init__(self, exists: bool = False) -> None:
        self._folder = EXISTING_FOLDER if exists else FOLDER

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder; `RellmError` if the URL cannot be used."""
        if isinstance(value, str) and is_url(value):
            return self._open(value)
        return Path(self._folder.convert(value, param, ctx))

    def _open(self, url: str) -> Path:
        from rellm_cache.store.remote.mirror import cache_folder

        return cache_folder(url)


class StorePath(CacheRoot):
    """Folder of one store, or its URL."""

    name = "store"

    def _open(self, url: str) -> Path:
        from rellm_cache.store.remote.mirror import store_folder

        return store_folder(url)


class OrderedGroup(click.Group):
    """Command group that lists commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        return list(self.commands)


run_argument = click.argument("run", type=EXISTING_FOLDER)
manifest_argument = click.argument("manifest", type=EXISTING)
root_argument = click.argument("root", type=CacheRoot(exists=True), default="cache")
store_argument = click.argument("store", type=StorePath(exists=True))
manifest_folder = click.option(
    "--manifest",
    required=True,
    type=EXISTING_FOLDER,
    help="Manifest folder with train.jsonl and, for validation, validation.jsonl.",
)
OVERRIDES: dict[str, Any] = {
    "multiple": True,
    "metavar": "KEY=VALUE",
    "help": "Change one recipe field, for example training.epochs=3 or llm=none. Repeatable.",
}
overrides = click.option("--set", "overrides", **OVERRIDES)
prompt_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a prompt of the run, for example prompts.answer_tokens=60. Repeatable.",
)
cache = click.option(
    "--cache",
    type=CacheRoot(),
    default="cache",
    metavar="FOLDER|URL",
    help="Folder of feature stores, or its URL, for example s3://bucket/folder.",
)
run_cache = click.option(
    "--cache",
    type=CacheRoot(),
    metavar="FOLDER|URL",
    help="Folder of feature stores, or its URL; by default the cache that the run was trained "
    "from.",
)
overwrite = click.option(
    "--overwrite",
    is_flag=True,
    help="Write even over an input, or over what another command or you have made.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
)


def recipe(command: Command) -> Command:
    """Add `--recipe` and `--set`, which are checked before all other values."""
    check: dict[str, Any] = {"is_eager": True, "callback": _checked_recipe}
    changes = click.option("--set", "overrides", **OVERRIDES, **check)
    name = click.option(
        "--recipe",
        required=True,
        **check,
        metavar="NAME|FILE",
        help="Name of a shipped recipe (see `rellm recipes`) or a TOML file.",
    )
    return name(changes(command))


def _checked_recipe(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The value of `--recipe` or `--set`; `ConfigError` if both are known and do not fit.

    A change with the `{seed}` of a sweep is left to the sweep.
    """
    from rellm_cache.config.recipes import load_recipe

    given = {**ctx.params, str(param.name): value}
    if {"recipe", "overrides"} <= given.keys() and "{seed}" not in "".join(given["overrides"]):
        load_recipe(given["recipe"], given["overrides"])
    return value


def out(help_text: str, path: click.Path = FOLDER) -> Callable[[Command], Command]:
    """The option `--out`, which is required."""
    return click.option("--out", required=True, type=path, help=help_text)


def batch_size(default: int, help_text: str) -> Callable[[Command], Command]:
    """The option `--batch-size`."""
    return click.option("--batch-size", type=COUNT, default=default, help=help_text)


def workers(unit: str, what: str) -> Callable[[Command], Command]:
    """Add `--workers`, `--shard` and `--ray`, for a command that makes `what` of each `unit`."""

    def add(command: Command) -> Command:
        processes = click.option(
            "--workers",
            type=COUNT,
            help="Worker processes, each with its own models: one for each GPU, or a few on a CPU. "
            f"Without this option, {what} in this process.",
        )
        shard = click.option(
            "--shard",
            metavar="I/N",
            help=f"Only part I of N of the {unit}s, for job arrays. The part of a {unit} depends "
            f"on its {'id' if unit == 'clip' else 'text'} only.",
        )
        ray = click.option(
            "--ray",
            metavar="ADDRESS",
            default="",
            show_default=False,
            help="Ray cluster that runs the workers: host:port, auto, or local.",
        )
        return processes(shard(ray(command)))

    return add


def split_long(command: Command) -> Command:
    """Add `--split-long`."""
    return click.option(
        "--split-long",
        is_flag=True,
        help="Cut longer recordings at silences, instead of leaving them out. Each clip has the id "
        "of its recording as parent, its labels and no text; the audio is read in place.",
    )(command)


def endpoint(task: str) -> Callable[[Command], Command]:
    """Add `--endpoint` and `--endpoint-model`, for a command whose `task` a server may do."""

    def add(command: Command) -> Command:
        url = click.option(
            "--endpoint",
            metavar="URL",
            help=f"Let a server {task}, in OpenAI's form: vLLM, llama.cpp, Ollama. --batch-size "
            "requests are sent side by side; $OPENAI_API_KEY is the key, if it wants one.",
        )
        model = click.option(
            "--endpoint-model",
            metavar="NAME",
            help="The model on the server; needed if it has several.",
        )
        return url(model(command))

    return add


def clip_limits(command: Command) -> Command:
    """Add `--min-seconds`, `--max-seconds` and `--keep-silent`."""
    seconds = FiniteRange(SHORTEST_SECONDS, LONGEST_SECONDS)
    longest = click.option(
        "--max-seconds", type=seconds, default=MAX_SECONDS, help="Longer clips are left out."
    )
    shortest = click.option(
        "--min-seconds", type=seconds, default=MIN_SECONDS, help="Shorter clips are left out."
    )
    silent = click.option(
        "--keep-silent",
        is_flag=True,
        help="Keep clips without a signal, and clips whose channels cancel in their average.",
    )
    return shortest(longest(silent(command)))
