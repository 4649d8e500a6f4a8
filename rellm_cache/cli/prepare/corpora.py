"""rellm prepare NAME: one command for each corpus that has a reader, ours or a plug-in's."""

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any, Literal

import click

import rellm_cache.corpus.readers  # noqa: F401  # registers our corpora
from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import EXIT_CODES, prepare_and_show
from rellm_cache.config.constraints import Range, constraints_of
from rellm_cache.config.field_texts import field_texts
from rellm_cache.config.plugins import CORPORA
from rellm_cache.config.toml import default_of
from rellm_cache.errors import ConfigError


class CorpusGroup(options.OrderedGroup):
    """Group whose last commands are the corpora of plug-ins, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of our commands, then those of plug-ins."""
        return list(dict.fromkeys([*super().list_commands(ctx), *CORPORA.names()]))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a corpus; one that explains itself if its package cannot be imported."""
        if cmd_name in self.commands or cmd_name not in CORPORA.names():
            return super().get_command(ctx, cmd_name)
        try:
            return corpus_command(cmd_name)
        except ConfigError as error:
            return click.Command(cmd_name, help=str(error), callback=_raising(error))


def corpus_command(name: str) -> click.Command:
    """The command of a corpus: its options are the fields of the reader's options."""
    plugin = CORPORA.find(name, "corpus")

    @click.argument("root", type=options.EXISTING_FOLDER)
    @options.out("Folder for the manifest.")
    @click.option(
        "--allow-partial",
        is_flag=True,
        help="Accept a corpus with fewer or more clips than expected.",
    )
    @options.clip_limits
    @options.split_long
    @options.overwrite
    def prepare(root: Path, out: Path, **given: Any) -> int:
        return prepare_and_show(name, root, out, **given)

    text = inspect.cleandoc(plugin.loaded.__doc__ or f"The corpus {name}.")
    command = click.command(name, help=text.partition("\nRaises:")[0], epilog=EXIT_CODES)(prepare)
    if plugin.options is not None:
        command.params[2:2] = _field_options(plugin.options)
    return command


def _field_options(kind: type[Any]) -> list[click.Parameter]:
    """An option for each field of a dataclass."""
    hints, texts, constraints = typing.get_type_hints(kind), field_texts(kind), constraints_of(kind)
    found: list[click.Parameter] = []
    for item in dataclasses.fields(kind):
        hint, default = hints[item.name], default_of(item)
        is_array = typing.get_origin(hint) is tuple
        settings: dict[str, Any] = {"help": texts.get(item.name), "multiple": is_array}
        settings["type"] = _option_type(
            typing.get_args(hint)[0] if is_array else hint, constraints.get(item.name)
        )
        if default is dataclasses.MISSING:
            settings["required"] = True
        else:
            settings["default"] = default
        name = f"--{item.name.replace('_', '-')}"
        switch = f"{name}/--no-{name[2:]}" if hint is bool else name
        found.append(click.Option([switch, item.name], **settings))
    return found


def _option_type(hint: Any, constraint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if hint is int and isinstance(constraint, Range):
        low, high = constraint.low, constraint.high
        return click.IntRange(
            None if low is None else int(low), None if high is None else int(high)
        )
    return hint if hint in (bool, int, float, str) else str


def _raising(error: ConfigError) -> Any:
    def callback() -> None:
        raise error

    return callback
