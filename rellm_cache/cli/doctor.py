"""rellm doctor: check this machine."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import DAMAGED, print_json
from rellm_cache.utils.console import counted

MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "error": ("ERROR", "red")}


@click.command()
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="Recipe whose models must be here; without it, a missing model of a shipped recipe is "
    "a warning. Repeatable.",
)
@click.option(
    "--cache",
    "caches",
    multiple=True,
    type=options.FOLDER,
    default=(Path("cache"),),
    help="Folder of feature stores. Repeatable.",
)
@click.option("--offline", is_flag=True, help="Do not ask whether the model hub answers.")
@options.as_json
def doctor(recipes: tuple[str, ...], caches: tuple[Path, ...], offline: bool, as_json: bool) -> int:
    """Check this machine: libraries, processor, GPU, caches, models.

    Every line was checked now: a 4-bit layer is computed, a file is written and locked beside the
    cache, the hub is asked. Below a line that is not ok stands what to do.

    Exit code 1: a line is an error.
    """
    from rellm_cache.config.recipes import load_recipe, shipped_recipes
    from rellm_cache.doctor.checks import healthy
    from rellm_cache.doctor.run import diagnose

    loaded = [load_recipe(name) for name in recipes or shipped_recipes()]
    checks = diagnose(caches, loaded, required=bool(recipes), hub=not offline)
    if as_json:
        print_json({"healthy": healthy(checks), "checks": [vars(check) for check in checks]})
        return 0 if healthy(checks) else DAMAGED
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            click.secho(group, bold=True)
        mark, color = MARKS[check.status]
        click.echo(f"  {click.style(f'{mark:5}', fg=color)} {check.name:{width}}  {check.found}")
        if check.fix:
            click.echo(f"  {'':5} {'':{width}}  -> {check.fix}")
    counts = {s: sum(c.status == s for c in checks) for s in ("error", "warning")}
    click.echo(f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}")
    return 0 if healthy(checks) else DAMAGED
