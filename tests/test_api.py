"""Public API: light to import, complete in its lists, equal to the commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rellm_cache as rellm

HEAVY = ("torch", "zarr", "click", "transformers", "numpy", "soundfile")


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, rellm_cache as rellm; dir(rellm); print(sorted(sys.modules))"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert "rellm_cache.errors" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_recipe_loads_without_torch() -> None:
    code = "import sys, rellm_cache as r; r.load_recipe('small'); print(sorted(sys.modules))"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert [name for name in ("torch", "zarr", "click") if name in loaded] == []


def test_every_name_is_known_to_python_and_to_type_checkers() -> None:
    source = ast.parse(Path(rellm.__file__).read_text("utf-8"))
    typed = {
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rellm_cache")
        for alias in node.names
    }
    assert typed - {"__version__"} == set(rellm.__all__)
    for name in rellm.__all__:
        assert getattr(rellm, name).__doc__, name
        assert name in dir(rellm)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rellm.trian  # noqa: B018
