"""rellm serve: a web page and an HTTP API to speak to trained runs."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.corpus.clip_limits import MAX_SECONDS, MIN_SECONDS
from rellm_cache.errors import ConfigError

MAX_WAITING = 32


@click.command()
@click.argument("runs", type=options.EXISTING_FOLDER, nargs=-1, required=True)
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets other machines in."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=7860, help="0 takes a free port.")
@click.option(
    "--token",
    default="",
    envvar="RELLM_TOKEN",
    show_default=False,
    help="What page and API ask for; by default the environment variable RELLM_TOKEN, or nothing.",
)
@click.option(
    "--max-seconds",
    type=options.FiniteRange(MIN_SECONDS, MAX_SECONDS),
    default=MAX_SECONDS,
    help="Longer clips are refused.",
)
@click.option(
    "--max-upload-mb", type=click.IntRange(1, 1000), default=32, help="Larger requests are refused."
)
@click.option(
    "--queue",
    type=click.IntRange(1, MAX_WAITING),
    default=8,
    help="Most requests that wait; more are refused.",
)
@options.prompt_overrides
def serve(
    runs: tuple[Path, ...],
    host: str,
    port: int,
    token: str,
    max_seconds: float,
    max_upload_mb: int,
    queue: int,
    overrides: tuple[str, ...],
) -> None:
    """Speak to a trained run in the browser, or to two side by side.

    The page takes a microphone or a file, and shows the emotion, the dimensions and the answer. The
    same process answers OpenAI's chat completions at /v1 with `input_audio` parts. Ctrl-C ends it.
    Only prompts.* can be set.
    """
    try:
        from rellm_cache.serving.server import serve as listen
        from rellm_cache.serving.settings import MB, ServeSettings
    except ImportError as error:
        raise ConfigError(
            f"the library {error.name} is not installed; pip install 'rellm[serve]'"
        ) from error

    settings = ServeSettings(host, port, token, max_upload_mb * MB, max_seconds, queue)
    if not settings.is_local and not token:
        click.echo(
            f"Everyone who reaches {host} can use this server; --token TOKEN asks for a token.",
            err=True,
        )
    listen(runs, settings, overrides, show_address)
    click.echo("Stopped.")


def show_address(url: str) -> None:
    """Print where page and API are."""
    base = url.partition("/?")[0]
    click.echo(f"Page: {url}\nAPI:  {base}/v1 (OpenAI's form)\nCtrl-C ends it.")
