"""Plug-ins of a separate package: installed, extracted, trained, killed, resumed, published."""

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
import venv
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.cache_admin.info import cache_info
from rellm_cache.errors import ConfigError
from rellm_cache.runs.weights import run_recipe
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.utils.console import silent

TOY = Path(__file__).parent / "rellm_toy"
CLIPS = Path(str(resources.files("rellm_cache.demo"))) / "clips"
RECIPE = """
name = "toy"
[encoders.mel]
kind = "toy-logmel"
options = {bands = 24}
[encoders.prosody]
kind = "prosody"
[adapter]
kind = "qformer"
output_size = 32
[adapter.options]
queries = 3
[heads]
emotions = ["neutral", "happy", "angry", "sad", "surprise"]
dimensions = false
[losses]
response_lm = 0.0
vad = 0.0
contrastive = 0.3
[training]
epochs = 24
batch_size = 8
gradient_accumulation = 1
learning_rate = 1e-3
warmup_steps = 4
"""
# Commands of one process, separated by "--".
DRIVER = """
import sys
from itertools import groupby
from rellm_cache.cli.commands import rellm
for is_end, words in groupby(sys.argv[1:], "--".__eq__):
    if not is_end and (code := rellm.main(list(words), standalone_mode=False)):
        sys.exit(code)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment with the toy package, and all that is installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", symlinks=True)
    own = folder / "venv/bin/python"
    (packages,) = (folder / "venv/lib").glob("python3*/site-packages")
    here = [str(Path(__file__).parents[2]), *site.getsitepackages()]
    (packages / "here.pth").write_text("".join(f"{path}\n" for path in here))
    shutil.copytree(TOY, folder / "toy")  # building leaves files in the source folder
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "--python", str(own), *install, str(folder / "toy")]
    subprocess.run(command, check=True, env=environment())
    return own


def environment() -> dict[str, str]:
    names = ("PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "waited")} for row in rows]


def test_a_package_brings_parts_without_an_edit_in_rellm(python: Path, tmp_path: Path) -> None:
    recipe, manifest, cache = tmp_path / "toy.toml", tmp_path / "manifest", tmp_path / "cache"
    recipe.write_text(RECIPE, "utf-8")
    whole, killed, public = tmp_path / "whole", tmp_path / "killed", tmp_path / "public"

    def start(*commands: str) -> "subprocess.Popen[str]":
        words = " -- ".join(commands).split()
        return subprocess.Popen(
            [str(python), "-c", DRIVER, *words],
            env=environment(),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(*commands: str) -> str:
        process = start(*commands)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    used = f"--recipe {recipe} --cache {cache}"
    train = f"train {used} --manifest {manifest} --out"
    said = run(
        "recipes",
        f"prepare toy-clips {CLIPS} --out {manifest} --limit 4",
        f"plan {manifest} {used}",
        f"extract {manifest} {used}",
        f"{train} {whole}",
    )
    assert "encoder 'toy-logmel' of rellm-toy 0.1.0" in said
    assert (
        "  adapter.options.queries: integer, 1 or more; default 4. Learned queries: the embeddings "
        "of an utterance, whatever its length.\n" in said
    )
    assert "losses.options.contrastive.temperature: number, more than 0; default 0.2. Div" in said
    assert "read by rellm-toy 0.1.0" in said

    process = start(f"{train} {killed}")
    while process.poll() is None and not any((killed / "checkpoints").glob("step-*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "adapter.safetensors").exists()
    said = run(
        f"{train} {killed}",
        f"evaluate {killed} {manifest / 'test.jsonl'}",
        f"sweep {used} --manifest {manifest} --out {tmp_path / 'sweep'} --seeds 1"
        " --set training.epochs=1 --variant more:adapter.options.queries=5"
        " --variant conv:adapter.kind=conv --variant alone:losses.contrastive=0",
        f"publish {killed} --out {public}",
        f"evaluate {public} {manifest / 'test.jsonl'} --cache {cache} --out {tmp_path / 'scores'}",
    )
    weights = "adapter.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    assert metrics(killed) == metrics(whole)
    (first, *_, last) = (row for row in metrics(whole) if "loss" in row)
    assert 0 < last["contrastive_loss"] < first["contrastive_loss"]
    scores = [tmp_path / "scores/scores.json", killed / "scores.json"]
    found, expected = (json.loads(path.read_text("utf-8"))["head"] for path in scores)
    assert found == expected
    assert "kind qformer" in (public / "README.md").read_text("utf-8")
    swept = {path.parents[1].name for path in (tmp_path / "sweep").glob(f"*/seed-1/{weights}")}
    assert swept == {"baseline", "more", "conv", "alone"}
    recorded = (killed / "recipe.toml").read_text("utf-8")
    assert '"adapter.qformer" = "rellm-toy 0.1.0"' in recorded
    assert "[encoders.mel.options]\nbands = 24" in recorded
    assert "dropout = 0.1" in recorded  # defaults are written out
    # The package is not installed in this process.
    with pytest.raises(ConfigError, match=r"encoders\.mel\.kind: .* pip install rellm-toy"):
        run_recipe(killed)
    stores = {store.encoder: store for store in cache_info(cache)}
    assert stores["toy-logmel"].clips == stores["prosody"].clips == 60
    assert stores["toy-logmel"].hours == pytest.approx(stores["prosody"].hours, rel=0.02)
    assert check_store(cache / stores["toy-logmel"].name, silent).is_intact
