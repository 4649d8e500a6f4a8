"""Trackers: what they hold after a continued run, and that they change nothing and stop nothing.

Each call of `train` is a child: W&B and Trackio keep state in the process. Children may connect to
this machine alone.
"""

import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from processes import Ended, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_processes import assert_same_run

from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.extraction.run import extract
from rellm_cache.training.callbacks import Callback, StepReport
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

Train = Callable[..., Ended]
SHOWN = ("train/loss", "train/learning_rate", "validation/loss")


class FailAtThree(Callback):
    def on_step(self, step: StepReport) -> None:
        if step.step == 3:
            raise RellmError("the power went out")


@pytest.fixture
def recipe(speech_recipe: Recipe) -> Recipe:
    """Two epochs of two steps, with a checkpoint at each."""
    own = {"epochs": 2, "batch_size": 4, "gradient_accumulation": 1, "checkpoint_minutes": 0.0}
    training = replace(speech_recipe.training, **own)
    return replace(speech_recipe, training=training)


@pytest.fixture
def train_in(recipe: Recipe, corpus: Path, tmp_path: Path) -> Train:
    """`train_in("run", "wandb")` trains in a child without a network.

    `broken` is a method of accelerate's tracker of TensorBoard that fails.
    """
    extract(corpus, recipe, tmp_path / "cache")

    def call(
        name: str, tracker: str, callbacks: tuple[Callback, ...] = (), broken: str = ""
    ) -> Ended:
        own = replace(recipe, training=replace(recipe.training, tracker=tracker))

        def work() -> None:
            without_network()
            os.environ |= {
                "HOME": str(tmp_path),
                "TRACKIO_DIR": str(tmp_path / "trackio"),
                "WANDB_MODE": "offline",
                "WANDB_CACHE_DIR": str(tmp_path / "wandb-cache"),
            }
            if broken:
                setattr(tracking.TensorBoardTracker, broken, fail)
            try:
                train(own, corpus, tmp_path / "cache", tmp_path / name, callbacks=callbacks)
            except RellmError as error:
                print(error)
                raise SystemExit(7) from error

        return run(work, tmp_path / "log", seconds=300)

    return call


def fail(*_: object, **__: object) -> None:
    raise ValueError("no space in the cloud")


def without_network() -> None:
    """Let sockets connect to this machine alone, and look no name up."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"connects to {address}")
        connect(self, address)

    socket.socket.connect = local  # type: ignore[method-assign]


@pytest.fixture
def untracked(train_in: Train, tmp_path: Path) -> Path:
    """The run without a tracker."""
    ended = train_in("untracked", "none")
    assert ended.code == 0, ended.output
    assert not {"tensorboard", "wandb", "tracker.json"} & {
        p.name for p in (tmp_path / "untracked").iterdir()
    }
    return tmp_path / "untracked"


def read_tensorboard(folder: Path) -> tuple[dict[str, dict[int, float]], str]:
    events = EventAccumulator(str(folder / "run/tensorboard"))
    events.Reload()
    (text, *_) = events.Tensors("recipe/text_summary")
    found = {
        tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]
    }
    return found, text.tensor_proto.string_val[0].decode()


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of a file of W&B: blocks of 32 KB with pieces, as in the logs of LevelDB."""
    block, place, record = 32_768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def read_wandb(folder: Path) -> tuple[dict[str, dict[int, float]], str]:
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted((folder / "run/wandb").glob("offline-run-*/run-*.wandb"))
    own = json.loads((folder / "run/tracker.json").read_text())["id"]
    assert [file.name for file in files] == [f"run-{own}.wandb"] * 2
    found: dict[str, dict[int, float]] = {}
    config = ""
    for file in files:
        for data in wandb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for name in values.keys() & set(SHOWN):
                found.setdefault(name, {})[values["_step"]] = values[name]
            if record.HasField("run"):
                assert record.run.display_name == "run"
                config += "".join(f"{c.key} {c.value_json}" for c in record.run.config.update)
    return found, config


def read_trackio(folder: Path) -> tuple[dict[str, dict[int, float]], str]:
    (file,) = (folder / "trackio").glob("rellm*.db")
    found: dict[str, dict[int, float]] = {}
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        config = str(database.execute("SELECT config FROM configs").fetchall())
    assert len({name for name, _, _ in rows}) == 1
    assert rows[0][0].startswith("run-")
    for _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, {})[step] = value
    return found, config


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio}


@pytest.mark.parametrize("tracker", READERS)
def test_a_continued_run_is_one_run_in_its_tracker(
    train_in: Train, untracked: Path, recipe: Recipe, tmp_path: Path, tracker: str
) -> None:
    ended = train_in("run", tracker, (FailAtThree(),))
    assert (ended.code, "the power went out" in ended.output) == (7, True), ended.output
    ended = train_in("run", tracker)
    assert (ended.code, "Warning" in ended.output) == (0, False), ended.output
    assert "Continuing at step" in ended.output
    assert_same_run(tmp_path / "run", untracked)
    found, config = READERS[tracker](tmp_path)
    rows = list(read_metrics(tmp_path / "run"))
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert found["train/loss"] == pytest.approx(losses)
    scores = {row["step"]: row["validation"]["loss"] for row in rows if "validation" in row}
    assert found["validation/loss"] == pytest.approx(scores)
    assert found["train/learning_rate"].keys() == losses.keys()
    assert "best_metric" in config
    assert recipe.name in config


def test_a_tracker_that_fails_is_left_out(train_in: Train, untracked: Path, tmp_path: Path) -> None:
    for method in ("start", "log", "finish"):
        ended = train_in(f"no-{method}", "tensorboard", broken=method)
        assert ended.code == 0, ended.output
        (warning,) = (line for line in ended.output.splitlines() if "Warning" in line)
        assert "'tensorboard' failed and is left out from here on (ValueError: no space" in warning
        assert_same_run(tmp_path / f"no-{method}", untracked)


def test_a_missing_library_is_an_error_at_the_start(
    recipe: Recipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", ["tensorboard"])
    own = replace(recipe, training=replace(recipe.training, tracker="wandb"))
    with pytest.raises(ConfigError, match=r"wandb is not installed; pip install 'rellm\[wandb\]'"):
        train(own, corpus, tmp_path / "cache", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_default_changes_no_digest(recipe: Recipe) -> None:
    assert "tracker" not in identity_toml(recipe)
    with pytest.raises(ConfigError, match="tracker"):
        load_recipe(recipe, {"training.tracker": "comet"})
