"""rellm prepare: a corpus's own folder becomes a manifest."""

import click

from rellm_cache.cli.options import InOrder
from rellm_cache.cli.prepare.corpora import esd, iemocap, msp_podcast, ravdess
from rellm_cache.cli.prepare.table import folder


@click.group(cls=InOrder)
def prepare() -> None:
    """Turn a corpus into a manifest: every clip decoded once, usable ones kept.

    A report of what was found ends the work and lies beside the manifest as report.json. A corpus
    that is known but not whole is an error, unless --allow-partial is given.
    """


for command in (iemocap, esd, msp_podcast, ravdess, folder):
    prepare.add_command(command)
