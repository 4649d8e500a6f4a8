"""rellm prepare: turn a corpus into a manifest."""

import click

from rellm_cache.cli.prepare.containers import datasets, webdataset
from rellm_cache.cli.prepare.corpora import CorpusGroup, corpus_command
from rellm_cache.cli.prepare.emobox import emobox
from rellm_cache.cli.prepare.table import folder


@click.group(cls=CorpusGroup)
def prepare() -> None:
    """Make a manifest from a corpus.

    Every clip is decoded once, and unusable clips are left out. The report is printed and written
    to report.json beside the manifest. An incomplete copy of a known corpus is an error, unless
    --allow-partial is given.
    """


for name in ("iemocap", "esd", "msp-podcast", "ravdess", "crema-d"):
    prepare.add_command(corpus_command(name))
prepare.add_command(emobox)
prepare.add_command(folder)
prepare.add_command(datasets)
prepare.add_command(webdataset)
