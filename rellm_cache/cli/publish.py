"""rellm publish: a trained adapter as a folder for a model hub."""

import dataclasses
import json
from pathlib import Path

import click

from rellm_cache.cli.options import json_option, run_argument, set_option


@click.command()
@run_argument
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder; an earlier publication there is made anew.",
)
@set_option
@click.option("--without-scores", is_flag=True, help="Also where `rellm evaluate` was never run.")
@click.option("--upload", metavar="OWNER/NAME", help="Also put it into this repository of the hub.")
@click.option("--private", is_flag=True, help="With --upload: a new repository is private.")
@json_option
def publish(
    run: Path,
    out: Path,
    overrides: tuple[str, ...],
    without_scores: bool,
    upload: str | None,
    private: bool,
    as_json: bool,
) -> None:
    """Assemble the trained run RUN for a model hub, and upload it where asked.

    Weights, config, recipe, scores, licences and model card, with checksums: the folder is a run
    that `rellm generate` and `rellm evaluate` take. It holds no optimiser, no utterance, no audio
    and no answer: corpora may not be passed on.

    Models must be where others find them: `--set llm.model=OWNER/NAME` says where, for a folder of
    this machine. The login is the hub client's own (`hf auth login`, HF_TOKEN).
    """
    from rellm_cache.runs.publish import SUMS
    from rellm_cache.runs.publish import publish as assemble
    from rellm_cache.runs.upload import require_hub_id
    from rellm_cache.runs.upload import upload as send

    if upload:
        require_hub_id(upload)
    elif private:
        raise click.UsageError("--private is of an --upload; give --upload OWNER/NAME too")
    found = assemble(run, out, overrides, without_scores)
    url = send(out, (*found.files, SUMS), upload, private) if upload else None
    if as_json:
        fields = dataclasses.asdict(found) | {"out": str(out), "uploaded": url}
        click.echo(json.dumps(fields))
        return
    for note in found.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Licence: {found.licence}")
    if found.non_commercial:
        click.echo(f"For non-commercial use only, because of {', '.join(found.non_commercial)}")
    if found.unknown:
        click.echo(f"Unknown: the licence of {', '.join(found.unknown)}")
    if found.unchanged:
        click.echo("Nothing to do: the folder holds this very publication")
    click.echo(f"Published: {out} ({len(found.files) + 1} files)")
    if url:
        click.echo(f"Uploaded: {url}")
