"""The command line. In: arguments. Out: one stage called, its report printed, an exit code.

Exit codes: 0 done; 1 failed, with a message; 2 wrong usage; 3 done, but some clips or runs
failed and are listed; 130 interrupted. Stages are imported when their command runs, so that help
answers at once.
"""

import sys
import warnings

import click

from rellm_cache import __version__
from rellm_cache.cli.annotate import annotate
from rellm_cache.cli.cache import cache
from rellm_cache.cli.demo import demo
from rellm_cache.cli.empathy import empathy
from rellm_cache.cli.evaluate import evaluate
from rellm_cache.cli.extract import extract
from rellm_cache.cli.generate import generate
from rellm_cache.cli.import_ import import_
from rellm_cache.cli.judge import judge
from rellm_cache.cli.options import InOrder
from rellm_cache.cli.plan import plan
from rellm_cache.cli.prepare import prepare
from rellm_cache.cli.publish import publish
from rellm_cache.cli.qa import qa
from rellm_cache.cli.recipes import recipes
from rellm_cache.cli.reproduce import reproduce
from rellm_cache.cli.respond import respond
from rellm_cache.cli.sweep import sweep
from rellm_cache.cli.train import train
from rellm_cache.cli.transcribe import transcribe
from rellm_cache.errors import RellmError

INTERRUPTED = 130


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rellm")
def rellm() -> None:
    """Cache frozen speech encoders once, then train empathetic speech LLM adapters in minutes.

    The order of work: prepare, respond, extract, annotate, qa, train, sweep, generate, evaluate,
    judge, publish.
    """


for command in (
    demo, prepare, respond, transcribe, plan, extract, annotate, qa, train, sweep, generate,
    evaluate, judge, empathy, reproduce, publish, cache, import_, recipes,
):  # fmt: skip
    rellm.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run rellm and end the process with its exit code."""
    if not sys.warnoptions:
        # Advice from one library to the authors of another says nothing to a user.
        warnings.simplefilter("ignore")
    try:
        code = rellm.main(arguments, prog_name="rellm", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except RellmError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk, a folder without permission: the message names the file.
        click.echo(f"Error: {error}", err=True)
        sys.exit(RellmError.exit_code)
    except click.exceptions.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _interrupted() -> None:
    click.echo("Interrupted. The same command goes on where this one stopped.", err=True)
    sys.exit(INTERRUPTED)
