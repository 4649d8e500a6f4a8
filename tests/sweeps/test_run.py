"""sweep: the same bits as `train`, one LLM, resume after interruptions, failures are listed."""

import json
import pydoc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RunError, StoreError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.runs.folder import create_run_folder
from rellm_cache.sweeps import run as sweep_run
from rellm_cache.sweeps.plan import SweepPlan, Variant
from rellm_cache.sweeps.run import SweepSettings, sweep
from rellm_cache.training.run import train

SPEECH_ONLY = Variant("speech-only", ("encoders.emotion=none",))
Loads = list[Path]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Folders of the chat models that transformers was asked to load."""
    found: Loads = []
    ordinary = AutoModelForCausalLM.from_pretrained

    def load_and_count(folder: Path, **options: Any) -> Any:
        found.append(folder)
        return ordinary(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_and_count)
    return found


@pytest.fixture
def write(quick: Recipe, tmp_path: Path) -> Callable[[Recipe], str]:
    """`write(recipe)`: the path of a TOML file of it."""

    def to_file(recipe: Recipe) -> str:
        (tmp_path / "recipe.toml").write_text(to_toml(recipe))
        return str(tmp_path / "recipe.toml")

    return to_file


@pytest.fixture
def speech_llm(quick: Recipe, write: Callable[[Recipe], str]) -> str:
    """One epoch with the tiny chat model."""
    return write(replace(quick, training=replace(quick.training, epochs=1)))


@pytest.fixture
def heads(quick: Recipe, write: Callable[[Recipe], str]) -> str:
    """One epoch of the heads alone, a checkpoint at every step; random states matter."""
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0)
    adapter = replace(quick.adapter, output_size=32, dropout=0.2)
    training = replace(quick.training, epochs=1, checkpoint_minutes=0.0)
    return write(replace(quick, llm=None, losses=losses, adapter=adapter, training=training))


@pytest.fixture
def setting(corpus: Path, cache: Path) -> SweepSettings:
    """Train and validate on the tones, and score on their test split."""
    return SweepSettings(corpus, cache, corpus / "test.jsonl")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_runs_share_the_llm_and_have_the_bits_and_scores_of_train_and_evaluate(
    setting: SweepSettings, speech_llm: str, loads: Loads, tmp_path: Path
) -> None:
    nf4 = Variant("nf4", ("llm.quantization=nf4",))
    plan = SweepPlan(speech_llm, (), (nf4,), (1, 2))
    report = sweep(plan, replace(setting, in_words=True), tmp_path / "sweep")
    assert report.failed == []
    assert len(report.runs) == 4
    assert len(loads) == 2  # as it is for the baseline's two seeds, then in 4 bits
    run = report.runs[-1]  # the second that the LLM in 4 bits trained, scored and answered for
    recipe = replace(load_recipe(speech_llm, nf4.overrides), seed=2)
    alone = tmp_path / "alone"
    trained = train(recipe, setting.manifest, setting.cache, alone)
    assert same(alone, run.out)
    for name in ("ua", "ccc_valence", "response_lm_loss"):
        assert run.scores[f"validation.{name}"] == trained.validation[name]
    assert setting.test is not None
    scored = evaluate(alone, setting.test, setting.cache, EvaluationOptions(0)).to_json()
    assert run.scores["test.ua"] == scored["head"]["ua"]
    assert run.scores["test.llm_accuracy"] == scored["llm"]["accuracy"]
    assert run.scores["test.words_ua"] == scored["llm"]["generation"]["ua"]
    assert run.scores["test.response_lm_loss"] == scored["losses"]["response_lm"]


def test_a_sweep_interrupted_anywhere_goes_on_to_the_same_bits(
    setting: SweepSettings,
    heads: str,
    loads: Loads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = SweepPlan(heads, (), (SPEECH_ONLY,), (3,))
    expected, pieces = sweep(plan, setting, tmp_path / "whole"), tmp_path / "pieces"

    def interrupted(part: SweepPlan, name: str, *, at_call: int, trained: int) -> None:
        """Sweep, stopped when something is called for the so-and-so-many-th time."""
        module, _, attribute = name.rpartition(".")
        with monkeypatch.context() as patch:
            calls = 0
            ordinary = getattr(pydoc.locate(module), attribute)

            def call_or_stop(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at_call:
                    raise KeyboardInterrupt
                return ordinary(*arguments, **options)

            patch.setattr(name, call_or_stop)
            with pytest.raises(KeyboardInterrupt):
                sweep(part, setting, pieces)
        assert len(list(pieces.rglob("outcome.json"))) == trained

    step = "rellm_cache.training.optim.Optimizer.step"
    interrupted(replace(plan, variants=()), step, at_call=3, trained=0)
    interrupted(plan, step, at_call=5, trained=1)  # with a variant more, stopped in its run
    interrupted(plan, "rellm_cache.sweeps.run.evaluate", at_call=1, trained=2)
    found = sweep(plan, setting, pieces)
    for run, piece in zip(expected.runs, found.runs, strict=True):
        assert same(run.out, piece.out)
        assert run.scores == piece.scores
    assert loads == []  # nothing here needs a chat model

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr("rellm_cache.sweeps.run.train", refuse)
    monkeypatch.setattr("rellm_cache.sweeps.run.evaluate", refuse)
    assert [run.scores for run in sweep(plan, setting, pieces).runs] == [
        run.scores for run in expected.runs
    ]


def test_runs_that_fail_are_listed_and_the_others_are_compared(
    setting: SweepSettings, heads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    arguments = [
        *("sweep", "--recipe", heads, "--out", str(out), "--seeds", "1,5"),
        *("--manifest", str(setting.manifest), "--cache", str(setting.cache)),
        *("--variant", "bf16: training.precision=bf16"),
        *("--variant", "wild: losses.emotion_ce=1e39"),
    ]
    jobs = SweepPlan(heads, (), (Variant("bf16", ("training.precision=bf16",)),), (5,)).jobs(out)

    def failing(recipe: Recipe, manifest: Path, cache: Path, out: Path, *shared: Any) -> Any:
        if out == jobs[1].out:
            raise ZeroDivisionError("a mistake of ours")
        return train(recipe, manifest, cache, out, *shared)

    monkeypatch.setattr(sweep_run, "train", failing)
    result = CliRunner().invoke(rellm, arguments, catch_exceptions=False, standalone_mode=False)
    assert result.return_value == 3  # of which `main` makes the exit code
    assert "Failed: wild, seed 1: " in result.stdout
    assert "is not a finite number before the first step" in result.stdout
    assert "Failed: bf16, seed 5: ZeroDivisionError" in result.stdout
    assert "Run 6 of 6: wild, seed 5" in result.stderr
    written = json.loads((out / "sweep.json").read_text())
    traces = {(r["variant"], r["seed"]): r["traceback"] for r in written["runs"] if r["error"]}
    assert traces.keys() == {("wild", 1), ("wild", 5), ("bf16", 5)}
    assert "a mistake of ours" in traces["bf16", 5]  # not ours to explain: where it came from
    assert traces["wild", 1] == ""
    pairs = {
        (c["variant"], c["metric"]): c["difference"] and c["difference"]["count"]
        for c in written["comparisons"]
    }
    assert pairs["baseline", "validation.ua"] is None
    assert pairs["bf16", "validation.ua"] == 1
    assert not any(variant == "wild" for variant, _ in pairs)


def test_errors_of_any_run_are_raised_before_the_first(
    setting: SweepSettings, heads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SweepPlan(heads, (), (SPEECH_ONLY,), (1,))
    _, job = plan.jobs(tmp_path / "other")
    create_run_folder(replace(job.recipe, training=replace(job.recipe.training, epochs=9)), job.out)
    with pytest.raises(RunError, match=r"speech-only/seed-1.*training\.epochs: wanted 1, found 9"):
        sweep(plan, setting, tmp_path / "other")
    assert not (tmp_path / "other/baseline").exists()

    _, job = plan.jobs(tmp_path / "stale")
    create_run_folder(job.recipe, job.out)
    outcome = {"trained_on": "other data", "seconds": 1.0, "validation": {}}
    (job.out / "outcome.json").write_text(json.dumps(outcome))
    with pytest.raises(RunError, match="speech-only/seed-1: this run was trained on other data"):
        sweep(plan, setting, tmp_path / "stale")
    (job.out / "outcome.json").write_text("{")
    with pytest.raises(
        RunError, match=r"outcome\.json: not JSON .*; remove it, and the sweep writes it"
    ):
        sweep(plan, setting, tmp_path / "stale")

    (job.out / "outcome.json").unlink()
    (job.out / "checkpoints/step-00000001").mkdir(parents=True)  # begun, and not finished
    (job.out / "data.sha256").write_text("other data")
    with pytest.raises(RunError, match="speech-only/seed-1: this run was trained on other data"):
        sweep(plan, setting, tmp_path / "stale")
    assert not (tmp_path / "stale/baseline").exists()

    validation = setting.manifest / "validation.jsonl"
    without = validation.rename(validation.with_suffix(".away"))
    early = SweepPlan(heads, (), (Variant("early", ("training.early_stopping=2",)),), (1,))
    with pytest.raises(ConfigError, match=r"has no validation\.jsonl, by which training\.early"):
        sweep(early, setting, tmp_path / "early")
    assert not (tmp_path / "early").exists()
    without.rename(validation)

    assert setting.test is not None
    lines = setting.test.read_text().replace("tones/09", "tones/new")
    setting.test.write_text(lines)
    with pytest.raises(StoreError, match=r"1 of 2 clips are absent.*`rellm extract .*test\.jsonl"):
        sweep(plan, setting, tmp_path / "new")
    assert not (tmp_path / "new").exists()

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="one process: start one for each GPU, with other --seeds"):
        sweep(plan, setting, tmp_path / "parallel")
