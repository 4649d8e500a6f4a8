"""rellm train, and messages of the commands that read its run or the cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.training.callbacks import STOP, Callback, Decision, StepReport
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def heads(quick: Recipe, tmp_path: Path) -> Recipe:
    """Two epochs of four steps of the heads, a checkpoint after each step; also in heads.toml."""
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0)
    training = replace(quick.training, checkpoint_minutes=0.0)
    adapter = replace(quick.adapter, output_size=32)
    recipe = replace(quick, llm=None, losses=losses, adapter=adapter, training=training)
    (tmp_path / "heads.toml").write_text(to_toml(recipe))
    return recipe


@pytest.fixture
def command(corpus: Path, cache: Path, heads: Recipe, tmp_path: Path) -> list[object]:
    """`rellm train` of the recipe on the tones."""
    return ["train", "--recipe", tmp_path / "heads.toml", "--manifest", corpus, "--cache", cache,
            "--out", tmp_path / "run"]  # fmt: skip


def test_a_resumed_run_says_where_it_continues(
    run: Run, command: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = Optimizer.step

    def step_or_die(self: Optimizer, number: int) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return ordinary(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", step_or_die)
        assert run(*command)[0] == 130
    code, out, err = run(*command)
    assert code == 0
    assert (out + err).count("Continuing at step 3 of 8\n") == 1
    (ua,) = [line.split() for line in out.splitlines() if line.strip().startswith("ua ")]
    assert (ua[2], ua[4]) == ("%", "%")
    code, out, err = run(*command)
    assert code == 0
    assert "Nothing to do: the run is finished, 8 steps" in out
    assert "Continuing" not in out + err


def test_a_stopped_run_says_why(
    run: Run, command: list[object], corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    class Enough(Callback):
        def on_step(self, step: StepReport) -> Decision | None:
            return STOP if step.step == 5 else None

    train(heads, corpus, cache, tmp_path / "run", callbacks=[Enough()])
    code, out, err = run(*command)
    assert code == 0, err
    assert "Stopped at step 5 of 8: Enough returned STOP\n" in out
    code, out, _ = run(*command[:-1], tmp_path / "early", "--set", "training.learning_rate=0.5",
                       "--set", "training.warmup_steps=0", "--set", "training.epochs=30",
                       "--set", "training.early_stopping=1")  # fmt: skip
    assert code == 0
    assert "of 120: no better loss for 1 epoch\n" in out


def test_missing_dimensions_are_said_once(run: Run, command: list[object], corpus: Path) -> None:
    for file in corpus.glob("*.jsonl"):
        file.write_text(file.read_text().replace('"vad"', '"other"'))
    code, out, err = run(*command)
    assert code == 0, err
    assert "no clip has dimensions" not in out + err
    assert (out + err).count("no clip of train has dimensions") == 1
    assert "Warning: losses.vad learns nothing, as no clip of train has dimensions" in err


def test_a_cache_folder_that_does_not_exist_is_named(
    run: Run, command: list[object], corpus: Path, tmp_path: Path
) -> None:
    assert run(*command)[0] == 0
    gone, trained, test = tmp_path / "gone", tmp_path / "run", corpus / "test.jsonl"
    words = [
        command,
        ["sweep", *command[1:-1], tmp_path / "sweep", "--seeds", "1"],
        ["annotate", corpus, "--recipe", tmp_path / "heads.toml"],
        ["evaluate", trained, test],
        ["generate", trained, test, "--out", "answers.jsonl"],
    ]
    for given in words:
        code, _, err = run(*given, "--cache", gone)
        assert code == 1, given
        assert f"{gone}: this cache folder does not exist; give the folder" in err, given
    for name in ("info", "verify", "repair", "prune", "compact"):
        code, _, err = run("cache", name, gone)
        assert code == 1
        assert f"{gone}: no such folder" in err
    assert not gone.exists()


def test_evaluate_names_both_manifests(
    run: Run, command: list[object], corpus: Path, tmp_path: Path
) -> None:
    assert run(*command)[0] == 0
    evaluate = ["evaluate", tmp_path / "run", "--samples", "0"]
    assert run(*evaluate, corpus / "test.jsonl")[0] == 0
    code, _, err = run(*evaluate, corpus)
    assert code == 1
    assert f"holds the scores of {corpus}/test.jsonl, and those of {corpus} would replace" in err
    assert "--out, or replace them with --overwrite" in err
    assert run(*evaluate, corpus, "--overwrite")[0] == 0
