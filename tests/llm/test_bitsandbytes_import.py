"""Import of bitsandbytes: never with compiled modules from a hub."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from rellm_cache.llm.bitsandbytes_import import KERNELS, LOGGER, without_hub_kernels

FAKE = """
from pathlib import Path

__version__ = "0.0.1"


def get_kernel(*_, **__):
    Path(__file__).with_name("was-asked").touch()
    raise OSError("no hub")
"""


@pytest.mark.parametrize(
    "module",
    ["rellm_cache.llm.loading", "rellm_cache.llm.lora", "rellm_cache.training.optim"],
)
def test_no_code_is_requested_from_a_hub(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{KERNELS}.py").write_text(FAKE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (tmp_path / "was-asked").exists()
    assert done.stderr == ""


def test_kernels_cannot_be_imported_within_the_block() -> None:
    logger = logging.getLogger(LOGGER)
    level = logger.level
    with without_hub_kernels():
        with pytest.raises(ImportError):
            __import__(KERNELS)
        assert not logger.isEnabledFor(logging.WARNING)
    assert KERNELS not in sys.modules
    assert logger.level == level


def test_an_imported_kernels_package_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, KERNELS, logging)
    with without_hub_kernels(), pytest.raises(ImportError):
        __import__(KERNELS)
    assert sys.modules[KERNELS] is logging
