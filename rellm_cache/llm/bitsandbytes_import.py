"""bitsandbytes, without code from elsewhere. In: nothing. Out: the library, imported.

On a processor with AVX-512 for bfloat16 bitsandbytes asks the package `kernels`, where that is
installed, for a compiled module from a model hub and runs it; elsewhere it warns that it could not.
No code of others is run here, and the module is for inference alone: the library is imported as if
there were no such package. It is imported here before anything else imports it, as peft does.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOADER = "kernels"  # the package that downloads and loads compiled modules
COMPLAINS = "bitsandbytes.backends.cpu.ops"  # that it is missing


@contextmanager
def without_hub_kernels() -> Iterator[None]:
    """While this lasts the package that loads compiled modules cannot be imported."""
    modules: dict[str, Any] = sys.modules
    logger = logging.getLogger(COMPLAINS)
    before, level = modules.get(LOADER), logger.level
    modules[LOADER] = None  # Python's own mark for what cannot be imported
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        del modules[LOADER]
        if before is not None:
            modules[LOADER] = before


with without_hub_kernels():
    import bitsandbytes

__all__ = ["bitsandbytes", "without_hub_kernels"]
