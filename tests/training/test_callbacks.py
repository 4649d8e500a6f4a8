"""Callbacks and early stopping: what is reported, stopping, kill and resume."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_processes import assert_same_run, finish, fork_world, metric_rows

from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import Recipe, TrainingConfig
from rellm_cache.errors import ConfigError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.runs.folder import create_run_folder
from rellm_cache.runs.provenance import load_training
from rellm_cache.training.callbacks import (
    STOP,
    Callback,
    Decision,
    EpochReport,
    StepReport,
    TrainReport,
)
from rellm_cache.training.checkpoints import CheckpointManager, Position
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import RESULTS

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Recorder(Callback):
    """Keeps every report; stops after a step or an epoch, or fails after a step."""

    def __init__(self, stop_step: int = 0, stop_epoch: int = 0, fail_step: int = 0) -> None:
        self.stop_step, self.stop_epoch, self.fail_step = stop_step, stop_epoch, fail_step
        self.steps: list[StepReport] = []
        self.epochs: list[EpochReport] = []
        self.ends: list[TrainReport] = []

    def on_step(self, step: StepReport) -> Decision | None:
        self.steps.append(step)
        if step.step == self.fail_step:
            raise OSError("the logging server is away")
        return STOP if step.step == self.stop_step else None

    def on_epoch(self, epoch: EpochReport) -> Decision | None:
        self.epochs.append(epoch)
        return STOP if epoch.epoch == self.stop_epoch else None

    def on_end(self, report: TrainReport) -> None:
        self.ends.append(report)


@pytest.fixture
def heads(quick: Recipe) -> Recipe:
    """No LLM, dropout, four steps an epoch, a checkpoint after every step."""
    return replace(
        quick,
        adapter=replace(quick.adapter, dropout=0.2, output_size=32),
        losses=replace(quick.losses, response_lm=0.0, emotion_lm=0.0),
        training=replace(quick.training, epochs=3, checkpoint_minutes=0.0),
    )


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changes))


def stopping(recipe: Recipe) -> Recipe:
    """A recipe whose validation loss soon rises: steps far too large, and 40 epochs."""
    return with_training(recipe, learning_rate=0.3, warmup_steps=0, epochs=40, early_stopping=2)


def test_callbacks_are_given_what_metrics_hold(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    first, second = Recorder(), Recorder()
    report = train(heads, corpus, cache, tmp_path / "run", callbacks=[first, second])
    rows = metric_rows(tmp_path / "run")
    taken = [row for row in rows if "validation" not in row]
    assert [step.step for step in first.steps] == list(range(1, 13))
    assert {step.steps for step in first.steps} == {12}
    for step, row in zip(first.steps, taken, strict=True):
        assert (step.step, step.epoch, step.loss) == (row["step"], row["epoch"], row["loss"])
        assert {f"{k}_loss": v for k, v in step.losses.items()}.items() <= row.items()
        assert step.learning_rate == row["learning_rate"]
        assert step.gradient_norm == row["gradient_norm"]
        assert step.seconds > 0
    assert [(e.epoch, e.epochs, e.step) for e in first.epochs] == [(1, 3, 4), (2, 3, 8), (3, 3, 12)]
    scores = [row["validation"] for row in rows if "validation" in row]
    assert [e.validation for e in first.epochs] == scores[1:]
    (best,) = {e.epoch - e.epochs_since_best for e in first.epochs if e.epoch == 3}
    assert first.epochs[best - 1].is_best
    assert first.epochs[best - 1].validation == report.validation
    assert first.ends == [report]
    assert (report.steps, report.planned, report.stopped) == (12, 12, "")
    assert second.steps == first.steps


def test_a_callback_that_fails_lets_the_run_continue_to_the_same_bits(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    train(heads, corpus, cache, tmp_path / "whole")
    failing, working = Recorder(fail_step=6), Recorder()
    with pytest.raises(OSError, match="the logging server is away"):
        train(heads, corpus, cache, tmp_path / "pieces", callbacks=[failing])
    assert not failing.ends
    report = train(heads, corpus, cache, tmp_path / "pieces", callbacks=[working])
    assert [step.step for step in failing.steps] == list(range(1, 7))
    assert [step.step for step in working.steps] == list(range(report.resumed_at + 1, 13))
    assert report.resumed_at == 5  # the last step that was saved; the sixth is taken again
    assert_same_run(tmp_path / "whole", tmp_path / "pieces")


def test_a_run_that_fails_before_its_first_checkpoint_says_that_it_starts_again(
    corpus: Path,
    cache: Path,
    heads: Recipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rare = with_training(heads, checkpoint_minutes=60.0)
    with pytest.raises(OSError, match="logging server"):
        train(rare, corpus, cache, tmp_path / "run", callbacks=[Recorder(fail_step=1)])
    assert "no checkpoint" not in capfd.readouterr().err
    train(rare, corpus, cache, tmp_path / "run")
    assert "no checkpoint was saved before, training starts again" in capfd.readouterr().err


def test_a_callback_stops_a_run_after_any_step(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    run, again = tmp_path / "run", Recorder()
    recorder = Recorder(stop_step=6)
    report = train(heads, corpus, cache, run, callbacks=[Callback(), recorder])
    assert (report.steps, report.planned) == (6, 12)
    assert report.stopped == "Recorder returned STOP"
    assert [e.step for e in recorder.epochs] == [4, 6]  # validated where it stopped
    assert report.validation in [e.validation for e in recorder.epochs]
    assert load_training(run).stopped == report.stopped
    assert "6 steps, stopped early (Recorder returned STOP), at most 3 epochs" in (
        (run / "README.md").read_text()
    )
    before = load_file(run / "adapter.safetensors")
    finished = train(heads, corpus, cache, run, callbacks=[again])  # nothing more is trained
    assert (finished.resumed_at, finished.steps, finished.stopped) == (6, 6, report.stopped)
    assert (again.steps, again.epochs, again.ends) == ([], [], [finished])
    after = load_file(run / "adapter.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    scores = evaluate(run, corpus / "test.jsonl", cache, EvaluationOptions(samples=0))
    assert scores.to_json()["clips"] == 2


def test_a_stop_at_the_last_step_is_no_early_stop(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    recorder = Recorder(stop_step=12, stop_epoch=3)
    report = train(heads, corpus, cache, tmp_path / "run", callbacks=[recorder])
    assert (report.steps, report.stopped) == (12, "")
    assert "stopped" not in (tmp_path / "run" / "training.json").read_text()


def test_other_answers_of_callbacks_are_refused(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    class Wrong(Callback):
        def on_epoch(self, epoch: EpochReport) -> Any:
            return True

    with pytest.raises(ConfigError, match=r"callback Wrong\.on_epoch returned True; expected None"):
        train(heads, corpus, cache, tmp_path / "run", callbacks=[Wrong()])


def test_early_stopping_keeps_the_best_epoch(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    recorder = Recorder()
    report = train(stopping(heads), corpus, cache, tmp_path / "run", callbacks=[recorder])
    losses = [epoch.validation["loss"] for epoch in recorder.epochs]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 40
    assert [epoch.epochs_since_best for epoch in recorder.epochs[best:]] == [0, 1, 2]
    assert report.stopped == "no better loss for 2 epochs"
    assert report.steps == 4 * len(losses) < report.planned
    assert report.validation["loss"] == min(losses)
    at_best = Recorder(stop_epoch=best + 1)
    off = with_training(stopping(heads), early_stopping=0)
    train(off, corpus, cache, tmp_path / "best", callbacks=[at_best])
    early, best_weights = (load_file(tmp_path / r / "adapter.safetensors") for r in ("run", "best"))
    assert all(torch.equal(early[name], best_weights[name]) for name in early)


def test_killed_anywhere_an_early_stop_is_at_the_same_step(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = stopping(heads)
    whole = train(recipe, corpus, cache, tmp_path / "whole")
    epochs = whole.steps // 4
    seen: list[int] = []
    for step in [4 * (epochs - 2), 4 * (epochs - 1) + 1, whole.steps]:
        recorder = Recorder(fail_step=step)  # within the patience, and at the very last step
        with pytest.raises(OSError, match="the logging server"):
            train(recipe, corpus, cache, tmp_path / "pieces", callbacks=[recorder])
        seen += [s.step for s in recorder.steps if s.step != step]

    def die(self: CheckpointManager, position: Position) -> None:
        raise KeyboardInterrupt

    last = Recorder()
    with monkeypatch.context() as patch:  # killed when the decision to stop is saved
        patch.setattr(CheckpointManager, "save_final", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, corpus, cache, tmp_path / "pieces", callbacks=[last])
    seen += [s.step for s in last.steps]
    assert seen == list(range(1, whole.steps + 1))
    report = train(recipe, corpus, cache, tmp_path / "pieces")
    assert (report.resumed_at, report.steps, report.stopped) == (
        whole.steps,
        whole.steps,
        whole.stopped,
    )
    assert report.validation == whole.validation
    assert_same_run(tmp_path / "whole", tmp_path / "pieces")


def test_two_processes_stop_together(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def run(name: str, recipe: Recipe, stop_step: int = 0) -> list[list[int]]:
        """Steps taken, steps planned and steps that the callback saw, for both processes."""

        def work() -> None:
            recorder = Recorder(stop_step)
            report = train(recipe, corpus, cache, tmp_path / name, callbacks=[recorder])
            found = [report.steps, report.planned, len(recorder.steps)]
            (tmp_path / f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(found))

        finish(fork_world(work, 2, log), log)
        return [json.loads((tmp_path / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]

    main, other = run("early", stopping(heads))
    assert main[0] < main[1]
    assert main[0] == main[2]
    assert other == [*main[:2], 0]  # callbacks are called in the main process only
    assert run("asked", heads, stop_step=6) == [[6, 12, 6], [6, 12, 0]]


def test_early_stopping_needs_what_it_compares(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r'early_stopping = 2 with best_metric = "last"'):
        TrainingConfig(best_metric="last", early_stopping=2)
    with pytest.raises(ConfigError, match=r"training\.early_stopping = -1: expected 0 or more"):
        TrainingConfig(early_stopping=-1)
    (corpus / "validation.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no validation\.jsonl, by which training\.early"):
        train(stopping(heads), corpus, cache, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_made_before_the_field_is_continued(quick: Recipe, tmp_path: Path) -> None:
    create_run_folder(quick, tmp_path / "run")
    path = tmp_path / "run" / "recipe.toml"
    path.write_text(path.read_text().replace("early_stopping = 0\n", ""))
    (tmp_path / "run" / RESULTS).unlink()
    create_run_folder(quick, tmp_path / "run")
    old = load_recipe(str(path))
    assert identity_toml(old) == identity_toml(quick)
    assert "early_stopping" not in identity_toml(quick)
    assert "early_stopping = 2" in identity_toml(with_training(quick, early_stopping=2))
