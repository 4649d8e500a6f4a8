"""Page of all commands, docs/cli.md, made from the command line.

    python tools/cli_page.py       # writes the generated part of docs/cli.md again

The help of a command is its documentation. tests/test_docs.py compares the page with it.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rellm_cache.cli.commands import rellm

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARK = "<!-- below: written by tools/cli_page.py -->\n"
OPTIONS = "| option | default | meaning |\n| --- | --- | --- |\n"


def contexts(command: click.Command, parent: click.Context | None = None) -> Iterator[Any]:
    """A context for the command and each of its subcommands, in the order of `--help`."""
    name = "rellm" if parent is None else command.name
    context = click.Context(command, parent, info_name=name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            if (found := command.get_command(context, child)) is not None:
                yield from contexts(found, context)


def section(context: click.Context) -> str:
    """Heading, usage, help and options of one command."""
    path, command = context.command_path, context.command
    words = [path, *command.collect_usage_pieces(context)]
    parts = [f"## {path}\n", f"`{' '.join(words)}`\n"]
    parts.append(inspect.cleandoc(command.help or "") + "\n")
    if isinstance(command, click.Group):
        parts.append("".join(child_rows(context, command)))
    rows = [option_row(o, context) for o in command.params if isinstance(o, click.Option)]
    if rows:
        parts.append(OPTIONS + "".join(rows))
    return "\n".join(part for part in parts if part.strip())


def child_rows(context: click.Context, group: click.Group) -> Iterator[str]:
    """A Markdown line for each subcommand, with a link to its section."""
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        assert child is not None
        path = f"{context.command_path} {name}"
        yield f"- [`{path}`](#{anchor(path)}): {child.get_short_help_str(200)}\n"


def option_row(option: click.Option, context: click.Context) -> str:
    """The row of one option, from what `--help` says of it."""
    record = option.get_help_record(context)
    assert record is not None, "no option is hidden"
    assert option.help, f"{context.command_path} {option.opts}: write its help"
    _, _, notes = record[1].rpartition("  [")
    known = dict(note.partition(": ")[::2] for note in notes.removesuffix("]").split("; "))
    default = "required" if option.required else "–"
    if "default" in known:
        default = f"`{cell(known['default'])}`"
    names = ", ".join(option.opts)
    if not option.is_flag:
        names += f" {option.make_metavar(context)}".replace(" RANGE", "")
    return f"| `{cell(names)}` | {default} | {cell(option.help)} |\n"


def cell(text: str) -> str:
    """Text for a cell of a table: on one line, without a bar that would end the cell."""
    return " ".join(text.split()).replace("|", r"\|")


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def with_commands(page: str) -> str:
    """The page with its generated part made again."""
    written, _, _ = page.partition(MARK)
    return written + MARK + "\n" + "\n".join(map(section, contexts(rellm)))


if __name__ == "__main__":
    PAGE.write_text(with_commands(PAGE.read_text("utf-8")), "utf-8")
