"""Best weights: kept in two steps, checked when used, and named when they are lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import RunError
from rellm_cache.extraction.run import extract
from rellm_cache.runs.check import check_folder
from rellm_cache.runs.provenance import load_training
from rellm_cache.training.callbacks import Callback, EpochReport
from rellm_cache.training.checkpoints import CheckpointManager
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train
from rellm_cache.training.validation import is_better, selection_score

BEST = "checkpoints/best.safetensors"


@pytest.fixture
def recipe(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> Recipe:
    """A recipe without an LLM, two epochs of four steps, whose frames are in the cache."""
    extract(corpus, speech_recipe, tmp_path / "cache")
    training = replace(
        speech_recipe.training, epochs=2, batch_size=2, gradient_accumulation=1, warmup_steps=2
    )
    return replace(speech_recipe, training=training)


def damaged_copies(data: bytes) -> dict[str, bytes | None]:
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return {"deleted": None, "truncated": data[:-10], "flipped": flipped, "empty": b""}


def put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def test_a_finished_run_is_not_rewritten_by_its_leftovers(
    corpus: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    train(recipe, corpus, cache, run)
    good = (run / "adapter.safetensors").read_bytes()
    best = (run / BEST).read_bytes()
    state = {p: p.stat().st_mtime_ns for p in run.glob("*.*") if p.name != "results.sha256"}
    for data in damaged_copies(best).values():
        put(run / BEST, data)
        train(recipe, corpus, cache, run)
        assert state == {p: p.stat().st_mtime_ns for p in state}
    # The other way round, the best weights restore a damaged result.
    (run / BEST).write_bytes(best)
    for data in damaged_copies(good).values():
        put(run / "adapter.safetensors", data)
        capsys.readouterr()
        train(recipe, corpus, cache, run)
        assert "was missing or damaged, restored from" in capsys.readouterr().err
        assert (run / "adapter.safetensors").read_bytes() == good
    assert check_folder(run).damaged == {}
    put(run / BEST, best[:-10])
    put(run / "adapter.safetensors", None)
    with pytest.raises(RunError, match="found other bytes than the checkpoint says, and adapter"):
        train(recipe, corpus, cache, run)


def test_a_killed_run_without_its_best_weights_says_so_and_finishes(
    corpus: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, ordinary = tmp_path / "cache", Optimizer.step

    def kill_at_step_6(self: Optimizer, number: int) -> float:
        if number == 6:
            raise KeyboardInterrupt
        return ordinary(self, number)

    def kill(self: CheckpointManager, position: object) -> None:
        raise KeyboardInterrupt

    for name, owner, method, stop, kept in (
        ("early", Optimizer, "step", kill_at_step_6, "the best of the next epochs is kept"),
        ("late", CheckpointManager, "save_final", kill, "those of the last epoch are kept"),
    ):
        run = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, stop)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, corpus, cache, run)
        data = (run / BEST).read_bytes()
        put(run / BEST, None if name == "early" else data[:-1])
        capsys.readouterr()
        report = train(recipe, corpus, cache, run)
        assert kept in capsys.readouterr().err
        assert load_file(run / "adapter.safetensors")
        assert report.validation["loss"] > 0
        assert check_folder(run).damaged == {}


def test_weights_of_an_unsaved_epoch_do_not_replace_the_best(
    corpus: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, run, ordinary = tmp_path / "cache", tmp_path / "run", CheckpointManager.save
    train(recipe, corpus, cache, tmp_path / "whole")
    saves: list[int] = []

    def kill_before(self: CheckpointManager, position: object) -> None:
        saves.append(1)
        if len(saves) == 2:  # the second epoch's, whose weights are written
            raise KeyboardInterrupt
        ordinary(self, position)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", kill_before)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, corpus, cache, run)
    first = (run / BEST).read_bytes()
    second = (run / "checkpoints/next-best.safetensors").read_bytes()
    assert first != second
    train(recipe, corpus, cache, run)
    whole = (tmp_path / "whole/adapter.safetensors").read_bytes()
    assert whole == (run / "adapter.safetensors").read_bytes() == second
    assert not (run / "checkpoints/next-best.safetensors").exists()


def test_a_score_that_is_not_finite_never_wins() -> None:
    nan, inf = float("nan"), float("inf")
    assert is_better(0.5, None)
    assert is_better(0.5, nan)  # kept by an older version
    assert is_better(0.5, 0.4)
    assert not is_better(0.5, 0.5)
    for value in (nan, inf, -inf):
        assert not is_better(value, None)
        assert not is_better(value, 0.5)
    assert not is_better(selection_score("ua", {"loss": 1.0}, 0), None)


def test_a_finished_run_loads_no_model(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(quick, corpus, cache, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise AssertionError("a finished run needs no LLM")

    monkeypatch.setattr("rellm_cache.runs.shared_models.load_llm", refuse)
    again = train(quick, corpus, cache, tmp_path / "run")
    assert replace(again, resumed_at=0) == first
    assert again.resumed_at == again.steps
    found = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert found == before


def test_metrics_that_change_in_an_interrupted_run_are_told(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = replace(
        quick,
        adapter=replace(quick.adapter, output_size=32),
        losses=replace(quick.losses, response_lm=0.0, emotion_lm=0.0),
    )

    class Killed(Callback):
        def on_epoch(self, report: EpochReport) -> None:
            if report.epoch == 2:
                raise KeyboardInterrupt

    def begin(name: str) -> Path:
        with pytest.raises(KeyboardInterrupt):
            train(heads, corpus, cache, tmp_path / name, callbacks=[Killed()])
        return tmp_path / name / "metrics.jsonl"

    begin("whole")
    train(heads, corpus, cache, tmp_path / "whole")
    assert "changed or damaged" not in capsys.readouterr().err
    for name in ("damaged", "deleted"):
        metrics = begin(name)
        data = metrics.read_bytes()
        put(metrics, data.replace(b"1", b"2", 1) if name == "damaged" else None)
        train(heads, corpus, cache, tmp_path / name)
        assert f"Note: {metrics}: was changed or damaged" in capsys.readouterr().err


def test_a_record_that_changes_before_its_checksum_is_listed_is_told(
    corpus: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    train(recipe, corpus, cache, run)
    record, listed = run / "training.json", run / "results.sha256"
    good = record.read_text()
    # As after a kill between the last file and the list of checksums.
    lines = [line for line in listed.read_text().splitlines() if line.endswith(" data.sha256")]
    listed.write_text("\n".join(lines) + "\n")
    assert '"steps": 8' in good
    record.write_text(good.replace('"steps": 8', '"steps": 9'))
    with pytest.raises(RunError, match=r"training\.json: cannot be read .*digest of other values"):
        load_training(run)
    train(recipe, corpus, cache, run)
    assert f"Note: {record}: was changed or damaged" in capsys.readouterr().err
    assert record.read_text() == good
    # A record of an older version has no digest of itself, and stays as it is.
    older = {name: value for name, value in json.loads(good).items() if name != "sha256"}
    record.write_text(json.dumps(older))
    listed.unlink()
    train(recipe, corpus, cache, run)
    assert json.loads(record.read_text()) == older
