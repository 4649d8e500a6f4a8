"""Layer rule: a module imports only from lower layers or its own package.

This ensures that training reads frames and never touches audio.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rellm_cache"
DESIGN = PACKAGE.parent / "docs" / "design.md"


def layers() -> list[str]:
    """Packages and modules of rellm_cache from the bottom up, as docs/design.md lists them."""
    page = DESIGN.read_text("utf-8")
    block = re.search(r"^## The tree\n.*?^```\w*\n(.*?)^```", page, re.M | re.S)
    assert block, "docs/design.md has no fenced list below `## The tree`"
    return re.findall(r"^  (\w+)(?:/|\.py)? ", block[1], re.M)


RANK = {name: rank for rank, name in enumerate(layers())}
MODULES = sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py"))


def unit(module: str) -> str:
    """The package or module of a row above that `store/part.py` or `store.part` belongs to."""
    return module.replace("/", ".").removesuffix(".py").split(".")[0] or "__init__"


def imports(module: str) -> set[str]:
    """Dotted names imported anywhere in a module, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written out, not relative"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def file_of(name: str) -> str | None:
    """The file of rellm_cache that a dotted name lies in: `rellm_cache.store.part.Part`, say."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_relative_to(PACKAGE) and file.exists():
                return str(file.relative_to(PACKAGE))
    return None


def own_imports(module: str) -> set[str]:
    """Files of rellm_cache that a module imports, as `store/part.py`."""
    return {file for name in imports(module) if (file := file_of(name)) is not None}


def reachable(module: str) -> set[str]:
    """Everything a module imports inside rellm_cache, directly or not."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        seen |= waiting
        waiting = {found for name in waiting for found in own_imports(name)} - seen
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    own = unit(module)
    assert own in RANK, f"{own} has no layer: add it to docs/design.md"
    higher = {
        imported
        for imported in own_imports(module)
        if unit(imported) != own and RANK[unit(imported)] >= RANK[own]
    }
    assert higher == set()


def test_training_never_touches_audio() -> None:
    used = reachable("training/run.py")
    assert "store/reader.py" in used  # the walk works
    assert not [m for m in used if m == "corpus/audio.py" or unit(m) == "encoders"]


def test_extraction_and_live_encoding_meet_in_one_place() -> None:
    for stage in ("extraction/run.py", "inference/live_encoding.py"):
        assert "encoders/registry.py" in own_imports(stage)


def test_the_design_lists_what_exists() -> None:
    children = {unit(module) for module in MODULES}
    assert set(RANK) == children


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_knows_click(module: str) -> None:
    knows_click = any(name.split(".")[0] == "click" for name in imports(module))
    assert unit(module) == "cli" or not knows_click


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_package_asks_what_kind_of_store_it_has(module: str) -> None:
    """Everywhere else a `FrameSource` is enough: a store, a quantized one, or live encodings."""
    asked = [
        ast.unparse(node)
        for node in ast.walk(ast.parse((PACKAGE / module).read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
    ]
    stores = ("FeatureStore", "InMemoryFrames")
    assert unit(module) == "store" or not [a for a in asked if any(s in a for s in stores)]
