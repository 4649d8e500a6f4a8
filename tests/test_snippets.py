"""Snippets of the documents: every Python and shell block runs, in the folder of the first page.

A block that cannot run here has a comment above it: `<!-- not run: REASON -->`. The blocks of a
page run in order; its Python blocks share their names. Lines that start with `rellm` call the
command in this process, which saves loading torch each time; other lines run in bash. The models
are the demo's, but SmolLM2 has two of its thirty layers, which makes its answers meaningless.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from safetensors.torch import load_file, save_file

import rellm_cache.model.losses  # noqa: F401  (registers our losses, which a page must not take away)
from rellm_cache.cli import main
from rellm_cache.config.plugins import ADAPTERS, CORPORA, ENCODERS, LOSSES
from rellm_cache.demo.models import SMOLLM2, ensure_models
from rellm_cache.errors import RellmError

ROOT = Path(__file__).parents[1]
CLIPS = Path("rellm_cache/demo/clips")
FIRST = ROOT / "README.md"
PAGES = [FIRST, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/guides/*.md"))]
DATA = {"csv", "json", "text", "toml"}  # languages of blocks that are not to be run
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.*?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
SPEAKERS = {"ben", "mia", "una", "ivy", "sam"}  # of whom a clip of each emotion is taken
LLM_LAYERS = 2


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run, "" if it is."""

    language: str
    code: str
    line: int
    reason: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            found["language"],
            found["code"],
            text.count("\n", 0, found.start("code")) + 1,
            found["reason"] or "",
        )
        for found in BLOCK.finditer(text)
    ]


def runs(block: Block) -> bool:
    return block.language not in DATA and not block.reason


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page in a folder; its plug-ins are forgotten afterwards."""
    # A module with a file: options of plug-ins are documented by their source.
    module = types.ModuleType(f"blocks_of_{page.stem.replace('-', '_')}")
    source = folder / f"{module.__name__}.py"
    module.__file__ = str(source)
    source.write_text("")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as registered:
        for registry in (ADAPTERS, CORPORA, ENCODERS, LOSSES):
            registered.enter_context(registry.restored())
        patch.setitem(sys.modules, module.__name__, module)
        patch.chdir(folder)
        patch.setenv("RELLM_MODELS", str(folder / "models"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for block in filter(runs, blocks(page)):
            if block.language == "python":
                lines = source.read_text("utf-8").count("\n")
                with source.open("a", encoding="utf-8") as file:
                    file.write("\n" * (block.line - 1 - lines) + block.code)
                code = "\n" * (block.line - 1) + block.code
                exec(compile(code, str(source), "exec"), module.__dict__)
            else:
                run_shell(block.code, f"{page.name}:{block.line}")


def run_shell(code: str, place: str) -> None:
    """Run each command of a block, continued lines joined."""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["rellm"] and not {">", "|", "&&"} & set(words):
            with pytest.raises(SystemExit) as end:
                main(words[1:])
            assert end.value.code == 0, f"{place}: {line}: exit code {end.value.code}"
        elif words:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=False)
            assert done.returncode == 0, f"{place}: {line}: exit code {done.returncode}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after the first page, with a part of the demo's clips."""
    checkout = tmp_path_factory.mktemp("checkout")
    place_models(checkout / "models")
    place_clips(checkout)
    run_page(FIRST, checkout)
    return checkout


def place_models(root: Path) -> None:
    """The demo's models, if their wheels are installed; the LLM without most of its layers."""
    pytest.importorskip("gguf", reason="the demo's models are converted with gguf")
    try:
        models = ensure_models(ROOT / "cache/models")
    except RellmError as error:
        pytest.skip(str(error))
    for name, source in models.items():
        shutil.copytree(source, root / name, copy_function=os.link)
    config, weights = (root / SMOLLM2 / name for name in ("config.json", "model.safetensors"))
    settings = json.loads(config.read_text("utf-8")) | {"num_hidden_layers": LLM_LAYERS}
    layers = re.compile(r"model\.layers\.(\d+)\.")
    tensors = {
        name: tensor
        for name, tensor in load_file(weights).items()
        if not (found := layers.match(name)) or int(found[1]) < LLM_LAYERS
    }
    for file in (config, weights):
        file.unlink()  # a link to the file in the cache
    config.write_text(json.dumps(settings), "utf-8")
    save_file(tensors, weights, metadata={"format": "pt"})


def place_clips(checkout: Path) -> None:
    """Some of the demo's clips and their table, where a checkout has them, and speech.wav."""
    (checkout / CLIPS).mkdir(parents=True)
    rows = map(json.loads, (ROOT / CLIPS / "manifest.jsonl").read_text("utf-8").splitlines())
    kept = [row for row in rows if row["speaker"] in SPEAKERS and row["id"].endswith("-1")]
    for row in kept:
        shutil.copy(ROOT / CLIPS / row["audio"], checkout / CLIPS)
    table = "".join(json.dumps(row) + "\n" for row in kept)
    (checkout / CLIPS / "manifest.jsonl").write_text(table, "utf-8")
    samples, rate = soundfile.read(ROOT / CLIPS / kept[-1]["audio"])
    soundfile.write(checkout / "speech.wav", samples, rate)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run_or_say_why_not(page: Path) -> None:
    found = blocks(page)
    assert page.read_text("utf-8").count("\n```") == 2 * len(found), "a fence that is not closed"
    for block in found:
        assert block.language in DATA | {"python", "sh"}, f"{page.name}:{block.line}: no language"
    marks = re.findall(r"<!-- not run: (.+?) -->\n", page.read_text("utf-8"))
    assert len(marks) == sum(bool(block.reason) for block in found), "a mark without a block"


def test_first_page_runs(folder: Path) -> None:
    assert (folder / "runs/heads/report.html").is_file()
    assert (folder / "answers.jsonl").is_file()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if any(map(runs, blocks(page)))],
    ids=lambda page: page.stem,
)
def test_page_runs(page: Path, folder: Path) -> None:
    run_page(page, folder)
