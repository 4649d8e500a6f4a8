"""rellm recipes: list the shipped recipes or print one."""

import click

from rellm_cache.cli import options


@click.command()
@click.argument("name", required=False)
@click.option(
    "--base",
    default="",
    show_default=False,
    metavar="NAME|FILE",
    help="Recipe to use instead of the one that NAME extends, for example small for re-llm.",
)
@options.overrides
def recipes(name: str | None, base: str, overrides: tuple[str, ...]) -> None:
    """List the shipped recipes, or print one with all its fields."""
    from rellm_cache.config.recipes import load_recipe, shipped_recipes, to_toml

    if name is not None:
        click.echo(to_toml(load_recipe(name, overrides, base)), nl=False)
        return
    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for known, text in shipped.items():
        click.echo(f"{known:{width}}  {text.splitlines()[0].removeprefix('# ')}")
