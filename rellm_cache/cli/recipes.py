"""rellm recipes: list the shipped recipes and installed plug-ins, or print a recipe."""

import click

from rellm_cache.cli import options
from rellm_cache.errors import ConfigError


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
    """List recipes and installed plug-ins, or print a recipe.

    A recipe is printed with all its fields, a plug-in with its options.
    """
    from rellm_cache.config.recipes import load_recipe, shipped_recipes, to_toml

    if name is not None:
        click.echo(to_toml(load_recipe(name, overrides, base)), nl=False)
        return
    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for known, text in shipped.items():
        click.echo(f"{known:{width}}  {text.splitlines()[0].removeprefix('# ')}")
    _show_plugins()


# Keys of a plug-in's options in a recipe, and the options of the command of a corpus.
OPTION_KEYS = {
    "encoder": "encoders.NAME.options.{}",
    "adapter": "adapter.options.{}",
    "loss": "losses.options.{name}.{}",
    "corpus": "--{}",
}


def _show_plugins() -> None:
    from rellm_cache.config.field_texts import describe_fields
    from rellm_cache.config.plugins import REGISTRIES

    for registry in REGISTRIES:
        for name in registry.names():
            try:
                plugin = registry.find(name, f"plug-in {name}")
            except ConfigError as error:
                click.echo(f"\n{error}")
                continue
            if not plugin.provider:
                continue
            click.echo(f"\n{registry.noun} {name!r} of {plugin.provider}")
            for field in describe_fields(plugin.options) if plugin.options else ():
                key = OPTION_KEYS[registry.noun].format(field.name, name=name)
                default = field.default.strip("`")
                shown = default if default == "required" else f"default {default}"
                click.echo(f"  {key}: {field.type.replace('`', '')}; {shown}. {field.text}")
