"""rellm cache: what the cache holds, whether it is whole, and other forms of it."""

import click

from rellm_cache.cli.cache.copy import copy, export, import_
from rellm_cache.cli.cache.info import info, ls
from rellm_cache.cli.cache.quantize import quantize
from rellm_cache.cli.cache.repair import compact, prune, repair
from rellm_cache.cli.cache.verify import verify
from rellm_cache.cli.options import InOrder


@click.group(cls=InOrder)
def cache() -> None:
    """Look at the feature cache, prove it whole, mend it, move it and halve it.

    ROOT is a folder, or a URL in an object store as s3://bucket/folder; STORE is one store in it.
    """


for command in (info, ls, verify, repair, prune, compact, quantize, copy, export, import_):
    cache.add_command(command)
