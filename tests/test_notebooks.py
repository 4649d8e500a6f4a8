"""Notebooks: each runs from its first cell to its last in a kernel, on a part of the demo's clips.

The models are those of `test_snippets`; the speech LLM was trained on one response for one epoch.
"""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from strip_notebooks import stripped
from test_snippets import place_clips, place_models

import rellm_cache as rellm

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SMALL = {
    "encoders.speech.window": "clip",
    "training.epochs": 1,
    "training.batch_size": 64,
    "prompts.answer_tokens": 4,
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after the first page: models, clips and `runs/small`."""
    folder = tmp_path_factory.mktemp("notebooks")
    place_models(folder / "models")
    place_clips(folder)
    (folder / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RELLM_MODELS", str(folder / "models"))
        rellm.prepare("folder", "rellm_cache/demo/clips/manifest.jsonl", "manifests/small")
        for split in ("train", "validation", "test"):
            file = Path("manifests/small", f"{split}.jsonl")
            rows = map(json.loads, file.read_text("utf-8").splitlines())
            text = "".join(json.dumps({**row, "response": "I see."}) + "\n" for row in rows)
            file.write_text(text, "utf-8")
        rellm.extract("small", "manifests/small", set=SMALL)
        rellm.train("small", "manifests/small", out="runs/small", set=SMALL)
    return folder


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> str:
    """Everything that the cells printed."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def shown(notebook: Any, kind: str) -> int:
    """Number of outputs of a MIME type."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum(kind in output.get("data", {}) for output in outputs)


def run_notebook(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RELLM_MODELS", str(checkout / "models"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(checkout / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    resources = {"metadata": {"path": str(checkout / "notebooks")}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    return notebook


def test_quick_start_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_notebook("quick-start.ipynb", checkout, monkeypatch)
    assert shown(done, "image/png") == 3  # training, confusion, probabilities
    assert shown(done, "text/html") == 2  # players
    assert (checkout / "runs/notebook/report.html").is_file()


def test_looking_into_the_cache_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_notebook("looking-into-the-cache.ipynb", checkout, monkeypatch)
    assert shown(done, "image/png") == 3
    assert "best layer for emotion: " in texts(done)


def test_comparing_runs_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_notebook("comparing-runs.ipynb", checkout, monkeypatch)
    assert shown(done, "image/png") == 1
    assert "without the stream " in texts(done)
    assert texts(done).count(", heard: ") == 2


def test_every_notebook_is_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [path.name for path in NOTEBOOKS if f'"{path.name}"' not in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    text = path.read_text("utf-8")
    assert stripped(text) == text, "run `python tools/strip_notebooks.py`"
    nbformat.validate(json.loads(text))
