"""bitsandbytes is imported without the package that loads compiled modules from a hub."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from rellm_cache.llm.bitsandbytes_import import COMPLAINS, LOADER, without_hub_kernels

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
def test_nothing_asks_a_hub_for_code(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{LOADER}.py").write_text(FAKE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (tmp_path / "was-asked").exists()
    assert done.stderr == ""


def test_the_loader_cannot_be_imported_meanwhile() -> None:
    logger = logging.getLogger(COMPLAINS)
    level = logger.level
    with without_hub_kernels():
        with pytest.raises(ImportError):
            __import__(LOADER)
        assert not logger.isEnabledFor(logging.WARNING)
    assert LOADER not in sys.modules
    assert logger.level == level


def test_a_loader_that_others_imported_is_theirs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, LOADER, logging)
    with without_hub_kernels(), pytest.raises(ImportError):
        __import__(LOADER)
    assert sys.modules[LOADER] is logging
