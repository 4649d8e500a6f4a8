"""Group of all commands of `rellm`, and how their errors are printed."""

import io
import sys
import warnings

import click

from rellm_cache.cli.annotate import annotate
from rellm_cache.cli.bench import bench
from rellm_cache.cli.benchmark import benchmark
from rellm_cache.cli.cache import cache
from rellm_cache.cli.check import check
from rellm_cache.cli.demo import demo
from rellm_cache.cli.doctor import doctor
from rellm_cache.cli.embed import embed
from rellm_cache.cli.empathy import empathy
from rellm_cache.cli.evaluate import evaluate
from rellm_cache.cli.extract import extract
from rellm_cache.cli.generate import generate
from rellm_cache.cli.import_ import import_
from rellm_cache.cli.judge import judge
from rellm_cache.cli.options import OrderedGroup
from rellm_cache.cli.plan import plan
from rellm_cache.cli.prepare import prepare
from rellm_cache.cli.probe import probe
from rellm_cache.cli.publish import publish
from rellm_cache.cli.qa import qa
from rellm_cache.cli.recipes import recipes
from rellm_cache.cli.reproduce import reproduce
from rellm_cache.cli.respond import respond
from rellm_cache.cli.serve import serve
from rellm_cache.cli.sweep import sweep
from rellm_cache.cli.train import train
from rellm_cache.cli.transcribe import transcribe
from rellm_cache.errors import RellmError
from rellm_cache.utils.disk_errors import os_error_text
from rellm_cache.version import __version__

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=OrderedGroup, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="rellm")
def rellm() -> None:
    """Cache frozen speech encoders once, then train empathetic speech LLM adapters in minutes.

    Start with `rellm demo`. The order of work: prepare, respond, extract, annotate, qa, train,
    sweep, generate, serve, evaluate, judge, publish.

    Exit codes: 0 done; 1 failed, with a message; 2 wrong usage; 3 done, but some clips or runs
    failed and are listed; 130 interrupted.
    """


for command in (
    demo, doctor, bench, prepare, respond, transcribe, plan, extract, annotate, qa, probe, train,
    sweep, generate, serve, embed, evaluate, judge, empathy, reproduce, benchmark, check, publish,
    cache, import_, recipes,
):  # fmt: skip
    rellm.add_command(command)


def run(arguments: list[str] | None) -> int:
    """Run a command; returns its exit code, and prints its error.

    Raises `KeyboardInterrupt` after Ctrl-C.
    """
    if not sys.warnoptions:
        # Warnings of libraries are for their developers, not for users.
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not have all characters
            stream.reconfigure(errors="backslashreplace")
    try:
        code = rellm.main(arguments, prog_name="rellm", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (RellmError, OSError) as error:
        text = os_error_text(error) if isinstance(error, OSError) else str(error)
        click.echo(f"Error: {text}", err=True)
        return RellmError.exit_code
    except click.exceptions.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        error.show()
        return error.exit_code
