"""rellm cache: list, verify, repair, compact, quantize, copy and export stores."""

import click

from rellm_cache.cli import options
from rellm_cache.cli.cache.copy import copy, export, import_
from rellm_cache.cli.cache.info import info, ls
from rellm_cache.cli.cache.quantize import quantize
from rellm_cache.cli.cache.repair import compact, prune, repair
from rellm_cache.cli.cache.verify import verify


@click.group(cls=options.OrderedGroup)
def cache() -> None:
    """List, verify, repair and copy feature stores.

    ROOT is a folder, or the URL of an object store such as s3://bucket/folder. STORE is the folder
    or URL of one store in it.
    """


for command in (info, ls, verify, repair, prune, compact, quantize, copy, export, import_):
    cache.add_command(command)
