"""Documents match the code: fields, commands, the store's format and links are checked."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from cli_page import anchor, contexts, with_commands
from recipe_fields import FIELDS, field_rows, recipe_tables, section_paths, with_tables

from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import shipped_recipes
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import FORMAT, FORMAT_VERSION, StoreInfo, store_path
from rellm_cache.store.maintenance.hdf5 import export_store
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

ROOT = Path(__file__).parents[1]
COMMANDS = (ROOT / "docs" / "cli.md").read_text("utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text("utf-8")
FORMAT_PAGE = (ROOT / "docs" / "cache-format.md").read_text("utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "cache" / "README.md",
]


# --- docs/recipes.md --------------------------------------------------------------------------


def test_recipe_fields_are_documented() -> None:
    assert with_tables(RECIPES) == RECIPES, "run `python tools/recipe_fields.py`"


def test_every_table_of_a_recipe_has_a_section_with_its_fields() -> None:
    sections = RECIPES.split("\n### ")[1:]
    found = [path for section in sections if FIELDS in section for path in section_paths(section)]
    assert sorted(found) == sorted(path for path, kind in recipe_tables() if field_rows(kind))


def test_shipped_recipe_is_documented() -> None:
    for name in shipped_recipes():
        assert f"\n| `{name}` |" in RECIPES


# --- docs/cli.md ------------------------------------------------------------------------------


def test_commands_and_options_are_documented() -> None:
    assert with_commands(COMMANDS) == COMMANDS, "run `python tools/cli_page.py`"
    for context in contexts(rellm):
        assert f"\n## {context.command_path}\n" in COMMANDS


# --- docs/cache-format.md ---------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A store of two parts, the second of which holds one clip again, and its frames by id."""
    info = StoreInfo(EncoderSpec(kind="prosody"), 5, "none")
    random = np.random.default_rng(1)
    frames: dict[str, np.ndarray] = {}
    for part in (["a/1", "a/ü"], ["a/1", "b/3"]):
        with StoreWriter(tmp_path, info) as writer:
            for clip in part:
                frames[clip] = random.normal(size=(300, 5)).astype(np.float16)
                writer.add(clip, np.zeros(32, np.uint8), frames[clip], np.zeros(3, np.float32))
    return store_path(tmp_path, info.spec), frames


def test_format_page_reader_reads_a_store(store: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, frames = store
    (code,) = re.findall(r"^```python\n(.*?)^```", FORMAT_PAGE, re.M | re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    clips = names["read_store"](str(path))
    assert clips.keys() == frames.keys()
    for clip, expected in frames.items():
        np.testing.assert_array_equal(clips[clip], expected)


def test_format_page_reader_reads_an_export(store: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, frames = store
    file = path.parent / "out.h5"
    export_store(path, file, silent)
    (code,) = re.findall(r"^```python\n(.*?)^```", FORMAT_PAGE, re.M | re.S)
    for old, new in (('zarr.open_group(path, mode="r")', "h5py.File(path)"), ("groups", "items")):
        assert old in FORMAT_PAGE
        code = code.replace(old, new)
    names: dict[str, Any] = {"h5py": h5py}
    exec(code, names)
    clips = names["read_store"](str(file))
    assert clips.keys() == frames.keys()
    for clip, expected in frames.items():
        np.testing.assert_array_equal(clips[clip], expected)


def test_format_page_names_attributes_and_arrays(
    store: tuple[Path, dict[str, np.ndarray]],
) -> None:
    path, _ = store
    attributes = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]["rellm"]
    assert f"Format `{FORMAT}`, version {FORMAT_VERSION}." in FORMAT_PAGE
    part = json.loads(next(path.glob("part-*/zarr.json")).read_text("utf-8"))
    of_part = part["attributes"]["rellm"]
    for key in (*attributes, *attributes["encoder"], *of_part):
        assert f"\n| `{key}` |" in FORMAT_PAGE
    for array in next(path.glob("part-*")).glob("*/zarr.json"):
        metadata = json.loads(array.read_text("utf-8"))
        row = re.search(rf"^\| `{array.parent.name}` .*$", FORMAT_PAGE, re.M)
        assert row, f"docs/cache-format.md has no row for {array.parent.name}"
        assert f"`{metadata['data_type']}`" in row[0]
        assert all(f"`{codec['name']}`" in row[0] for codec in metadata["codecs"])


@pytest.mark.parametrize(
    "spec",
    [
        EncoderSpec(kind="prosody"),
        EncoderSpec(
            kind="whisper", model="openai/whisper-tiny.en", layer=2, weights_sha256="0" * 64
        ),
    ],
    ids=["without weights", "with weights"],
)
def test_format_page_fingerprints_are_right(spec: EncoderSpec) -> None:
    name = store_path(Path(), spec).name
    assert re.search(rf"^{spec.fingerprint} +folder {re.escape(name)}$", FORMAT_PAGE, re.M)


# --- every page -------------------------------------------------------------------------------


def written_commands(page: Path) -> list[list[str]]:
    """Words of each rellm command in the fenced blocks of a page, without "rellm"."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S))
    lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
    commands = [line for line in lines if re.match(r'rellm (?!"\$@")', line)]  # not any command
    return [shlex.split(line, comments=True)[1:] for line in commands]


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_written_commands_and_their_options_exist(page: Path) -> None:
    for words in written_commands(page):
        command: click.Command = rellm
        rest = list(words)
        while isinstance(command, click.Group):
            assert rest[0] in command.commands, f"{page.name}: no command {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        known = {name for option in command.params for name in option.opts}
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert options <= known, f"{page.name}: {' '.join(words)}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, heading = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), f"{page.name}: {target}"
        assert not heading or heading in anchors(found), f"{page.name}: {target}"


def test_every_page_is_linked_from_the_first() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    pages = {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} | {"docs/decisions/"}
    pages |= {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/guides/*.md")}
    pages |= {"notebooks/"}
    assert pages - set(re.findall(r"\]\(([^)#\s]+)", text)) == set()


def test_the_first_page_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130
