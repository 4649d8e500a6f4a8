"""The wheel installs one complete top-level package and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of the wheel, built offline from a copy that has all the checkout's own folders."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "checkout"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    ignore = shutil.ignore_patterns("__pycache__", "*.partial")
    shutil.copytree(ROOT / "rellm_cache", source / "rellm_cache", ignore=ignore)
    # What lies beside the package in a checkout and must stay there.
    for name in ("cache/README.md", "tests/conftest.py", "tools/tool.py", "docs/a.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*pip, "--no-index", "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_nothing_lies_beside_the_package(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    (metadata,) = tops - {"rellm_cache"}
    assert metadata.startswith("rellm-")
    assert metadata.endswith(".dist-info")


def test_every_module_and_data_file_is_in(names: list[str]) -> None:
    package = ROOT / "rellm_cache"
    kinds = ("*.py", "py.typed", "shipped/*.toml", "demo/*.toml", "*.j2", "demo/clips/*")
    wanted = {str(p.relative_to(ROOT)) for kind in kinds for p in package.rglob(kind)}
    assert wanted <= set(names)
    assert "rellm_cache/evaluation/report.html.j2" in names
    assert {n.rpartition("/")[2] for n in names} >= {"small.toml", "LICENSE", "NOTICE"}


def test_the_command_is_installed(names: list[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)
