"""Import of bitsandbytes without compiled kernels from a model hub.

On CPUs with AVX512-BF16, bitsandbytes uses the package `kernels` to download a compiled module and
run it, or warns that the package is missing. rellm runs no downloaded code, and the compiled
module works for inference only. So bitsandbytes is imported here as if `kernels` were not
installed. This must happen before peft or another library imports bitsandbytes.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KERNELS = "kernels"  # the package that downloads and loads compiled modules
LOGGER = "bitsandbytes.backends.cpu.ops"  # warns if it is missing


@contextmanager
def without_hub_kernels() -> Iterator[None]:
    """Make the package `kernels` impossible to import within the block."""
    modules: dict[str, Any] = sys.modules
    logger = logging.getLogger(LOGGER)
    before, level = modules.get(KERNELS), logger.level
    modules[KERNELS] = None  # Python then refuses to import it
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        del modules[KERNELS]
        if before is not None:
            modules[KERNELS] = before


with without_hub_kernels():
    import bitsandbytes

__all__ = ["bitsandbytes", "without_hub_kernels"]
