"""Plug-in registries: entry points of packages, and what is said when they are missing or fail."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rellm_cache.config.plugins import CORPORA, REGISTRIES
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.corpus.readers.registry import read_corpus
from rellm_cache.errors import ConfigError
from rellm_cache.runs.folder import recipe_differences

READER = """
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.registry import register_corpus
@register_corpus("{name}")
def read(root, options):
    return Corpus("{name}", ())
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("package", "module", code, name)`: a package whose entry point is `module:read`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, module: str, code: str, name: str, group: str = CORPORA.group) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:read\n")

    with CORPORA.restored():
        yield write


def test_an_entry_point_is_imported_when_its_name_is_asked_for(
    install: Install, tmp_path: Path
) -> None:
    install("some-package", "first_reader", READER.format(name="first"), "first")
    ours, offered = CORPORA.names()[:-1], CORPORA.names()[-1]
    assert {"iemocap", "folder"} < {*ours}
    assert offered == "first"
    assert read_corpus("first", tmp_path, {}).notes == ["read by some-package 1.2"]
    assert CORPORA.find("first", "here").provider == "some-package 1.2"
    with pytest.raises(ConfigError, match="corpus 'first': 'first' has no options; leave them out"):
        read_corpus("first", tmp_path, {"limit": 1})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import no_such_module",
            r"entry point 'bad0:read' of some-package 1\.2 fails: ModuleNotF",
        ),
        ("read = 1", "registers no corpus named 'bad'; use the decorator register_corpus"),
    ],
)
def test_an_entry_point_that_fails_is_named(
    install: Install, code: str, message: str, request: pytest.FixtureRequest
) -> None:
    module = "bad0" if "import" in code else "bad1"
    install("some-package", module, code, "bad")
    with pytest.raises(ConfigError, match=message):
        CORPORA.find("bad", "here")


def test_a_name_of_two_packages_is_refused(install: Install) -> None:
    for package, module in (("one", "two_a"), ("other", "two_b")):
        install(package, module, READER.format(name="twice"), "twice")
    with pytest.raises(ConfigError, match=r"'twice' is provided by \w+ 1\.2 and by \w+ 1\.2; unin"):
        CORPORA.find("twice", "here")


def test_a_recorded_package_is_named(tmp_path: Path) -> None:
    table = to_toml(load_recipe("heads")).replace('kind = "conv"', 'kind = "qformer"')
    recorded = '\n[plugins]\n"adapter.qformer" = "rellm-toy 0.1.0"\n'
    (tmp_path / "recipe.toml").write_text(table + recorded)
    with pytest.raises(
        ConfigError,
        match=r"toml: adapter\.kind: .* 'qformer'; rellm-toy 0\.1\.0 .* pip install rellm-toy",
    ):
        load_recipe(str(tmp_path / "recipe.toml"))
    (tmp_path / "recipe.toml").write_text(table + recorded.replace("rellm-toy 0.1.0", "module a.b"))
    with pytest.raises(ConfigError, match=r"module a\.b registered it: import that module first"):
        load_recipe(str(tmp_path / "recipe.toml"))
    assert load_recipe(str(tmp_path / "recipe.toml"), ["adapter.kind=conv"]).plugins == {}


def test_another_version_is_a_difference(install: Install, tmp_path: Path) -> None:
    code = """
from rellm_cache.model.losses.registry import register_loss
@register_loss("versioned")
def read(outputs, batch, context):
    return outputs.pooled.sum()
"""
    losses = REGISTRIES[2]
    with losses.restored():
        install("lossy", "versioned_loss", code, "versioned", losses.group)
        now = load_recipe("heads", ["losses.versioned=1"])
        assert now.plugins == {"loss.versioned": "lossy 1.2"}
        old = to_toml(now).replace("lossy 1.2", "lossy 1.1")
        (tmp_path / "recipe.toml").write_text(old)
        assert recipe_differences(now, load_recipe(str(tmp_path / "recipe.toml"))) == [
            "plugins.loss.versioned: wanted 'lossy 1.2', found 'lossy 1.1'"
        ]
