"""The command `rellm bench`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe_file(whisper_folder: Path, llm_folder: Path, tmp_path: Path) -> Path:
    """A recipe with a tiny encoder and a tiny LLM."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\n'
        f'[encoders.speech]\nkind = "whisper"\nmodel = "{whisper_folder}"\n'
        '[adapter]\npreset = "lite"\nwidth = 16\nbottleneck = 16\n'
        f'[llm]\nmodel = "{llm_folder}"\nquantization = "none"\n'
        "[training]\nbatch_size = 2\ngradient_accumulation = 1\n"
    )
    return path


def test_it_prints_figures_and_a_row_and_writes_json(
    run: Run, recipe_file: Path, llm_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.json"
    options = ("--recipe", recipe_file, "--seconds", "0.1", "--random", "--json", file)
    code, out, _ = run("bench", *options, "--set", "training.batch_size=1")
    assert code == 0
    assert f"Model: {llm_folder} with RANDOM weights of its shape" in out
    assert "an epoch of IEMOCAP" in out
    row = out.splitlines()[-1]
    assert row.startswith("| ")
    assert f"`rellm bench --recipe {recipe_file} --set training.batch_size=1 --random`" in row
    found = json.loads(file.read_text("utf-8"))
    assert found["row"] == row
    assert (found["weights"], found["clips"]) == ("random", 1)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ((), 2, "Missing option '--recipe'"),
        (("--recipe", "heads", "--seconds", "0"), 2, "not in the range x>0"),
        (("--recipe", "heads", "--seconds", "nan"), 2, "not a finite number"),
        (("--recipe", "heads", "--json", "/"), 2, "is a directory"),
        (("--recipe", "nothing"), 1, "no such recipe"),
        (("--recipe", "text-llm"), 1, "nothing to train"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    run: Run, options: tuple[str, ...], code: int, text: str
) -> None:
    found, _, err = run("bench", *options)
    assert found == code
    assert text in err


def test_ctrl_c_ends_both_processes(recipe_file: Path) -> None:
    command = [sys.executable, "-m", "rellm_cache.cli", "bench", "--recipe", str(recipe_file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    assert "Loading" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal: both processes get it
    _, err = process.communicate(timeout=60)  # ends when no process has the pipe
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("Interrupted.")
    assert "Traceback" not in err
