"""rellm prepare: turn a corpus into a manifest."""

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.corpora import esd, iemocap, msp_podcast, ravdess
from rellm_cache.cli.prepare.table import folder


@click.group(cls=options.OrderedGroup)
def prepare() -> None:
    """Make a manifest from a corpus.

    Every clip is decoded once, and unusable clips are left out. The report is printed and written
    to report.json beside the manifest. An incomplete copy of a known corpus is an error, unless
    --allow-partial is given.
    """


for command in (iemocap, esd, msp_podcast, ravdess, folder):
    prepare.add_command(command)
