"""rellm recipes: the shipped recipes."""

import click

from rellm_cache.cli.options import set_option


@click.command()
@click.argument("name", required=False)
@set_option
def recipes(name: str | None, overrides: tuple[str, ...]) -> None:
    """List the shipped recipes, or print recipe NAME with every field spelled out."""
    from rellm_cache.config import load_recipe, shipped_recipes, to_toml

    if name is not None:
        click.echo(to_toml(load_recipe(name, overrides)), nl=False)
        return
    for known, text in shipped_recipes().items():
        click.echo(f"{known:10} {text.splitlines()[0].removeprefix('# ')}")
