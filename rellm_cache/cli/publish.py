"""rellm publish: a trained run as a folder for a model hub."""

import dataclasses
from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import print_json


@click.command()
@options.run_argument
@options.out("Folder to write. An earlier publication there is replaced.")
@options.overrides
@click.option(
    "--without-scores", is_flag=True, help="Allow a run that `rellm evaluate` has not scored."
)
@click.option("--upload", metavar="OWNER/NAME", help="Upload to this repository of the hub.")
@click.option("--private", is_flag=True, help="With --upload: make a new repository private.")
@options.as_json
def publish(
    run: Path,
    out: Path,
    overrides: tuple[str, ...],
    without_scores: bool,
    upload: str | None,
    private: bool,
    as_json: bool,
) -> None:
    """Assemble a trained run for a model hub, and upload it.

    The folder holds weights, config, recipe, scores, licences, model card and checksums. It is a
    run that `rellm generate` and `rellm evaluate` accept. It holds no optimizer state and no
    utterances, audio or answers, because corpora may not be redistributed.

    Others must be able to find the models. If the recipe names a local folder, give its hub id,
    for example `--set llm.model=OWNER/NAME`. To log in, use `hf auth login` or HF_TOKEN.
    """
    from rellm_cache.runs.publish import publish as assemble
    from rellm_cache.runs.upload import require_hub_id
    from rellm_cache.runs.upload import upload as send
    from rellm_cache.utils.checksums import SUMS

    if upload:
        require_hub_id(upload)
    elif private:
        raise click.UsageError("--private needs --upload; add --upload OWNER/NAME")
    found = assemble(run, out, overrides, without_scores)
    url = send(out, (*found.files, SUMS), upload, private) if upload else None
    if as_json:
        print_json(dataclasses.asdict(found) | {"out": str(out), "uploaded": url})
        return
    for note in found.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Licence: {found.licence}")
    if found.non_commercial:
        click.echo(f"Non-commercial use only, because of {', '.join(found.non_commercial)}")
    if found.unknown:
        click.echo(f"Unknown licence: {', '.join(found.unknown)}")
    if found.unchanged:
        click.echo("Nothing to do: the folder already holds this publication")
    click.echo(f"Published: {out} ({len(found.files) + 1} files)")
    if url:
        click.echo(f"Uploaded: {url}")
