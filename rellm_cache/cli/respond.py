"""rellm respond: step 1, expected responses from transcripts."""

from pathlib import Path

import click

from rellm_cache.cli.options import (
    batch_size_option,
    manifest_argument,
    recipe_option,
    set_option,
)


@click.command()
@manifest_argument
@recipe_option
@set_option
@batch_size_option(16, "Prompts answered at a time.")
def respond(manifest: Path, recipe: str, overrides: tuple[str, ...], batch_size: int) -> None:
    """Let the chat LLM continue each transcript in the tone of its emotion (step 1).

    MANIFEST is a manifest file or folder; responses are written beside it as
    SPLIT.responses.jsonl and joined when the manifest is read.
    """
    from rellm_cache.config import load_recipe
    from rellm_cache.stages.respond import respond as run

    for report in run(manifest, load_recipe(recipe, overrides), batch_size):
        click.echo(f"{report.path}: {report.written} responses, {report.generated} generated now")
        for reason, count in report.dropped.items():
            click.echo(f"  dropped {count}: {reason}")
