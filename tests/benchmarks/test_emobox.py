"""EmoBox benchmark: every fold and seed, in processes, continued, with the leaderboard's rows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from rellm_cache.benchmarks.emobox import benchmark, find_folds
from rellm_cache.benchmarks.report import BenchmarkReport, FoldRun
from rellm_cache.cli.benchmark import show
from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.sweeps import run as sweep_run


@pytest.fixture
def heads(quick: Recipe) -> Recipe:
    """The tiny recipe with the category head alone, one epoch and other emotions."""
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0, vad=0.0)
    return replace(
        quick,
        losses=losses,
        adapter=replace(quick.adapter, output_size=8),
        heads=replace(quick.heads, emotions=("angry", "calm")),
        training=replace(quick.training, epochs=1),
    )


@pytest.fixture
def folds(corpus: Path, cache: Path, tmp_path: Path) -> Path:
    """Two folds with the same clips; the second lacks a clip of the benchmark."""
    for fold, found in ((1, 3), (2, 2)):
        shutil.copytree(corpus, tmp_path / f"folds/fold_{fold}")
        totals = [{"name": "test", "found": found, "expected": 3}]
        report = {"corpus": "emobox-esd", "totals": totals}
        (tmp_path / f"folds/fold_{fold}/report.json").write_text(json.dumps(report))
    return tmp_path / "folds"


def test_every_fold_and_seed_is_scored_once(
    folds: Path, cache: Path, heads: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench"
    report = benchmark(folds, cache, out, heads, seeds=(1, 2))
    assert [(run.fold, run.seed, run.error) for run in report.runs] == [
        ("fold_1", 1, ""), ("fold_1", 2, ""), ("fold_2", 1, ""), ("fold_2", 2, ""),
    ]  # fmt: skip
    # The emotions of the clips replace those of the recipe, its own first.
    assert report.recipe.heads.emotions == ("angry", "happy", "neutral", "sad", "surprise")
    assert report.lacking == ("fold_2: 2 of 3 clips of test",)
    assert report.score("head", "ua").sd_seeds is not None
    assert report.leaderboard["WavLM-large"] == 0.791
    assert replace(report, corpus="ravdess").leaderboard == {}  # its rows are of eight emotions
    written = json.loads((out / "benchmark.json").read_text())
    assert (written["finished"], written["planned"]) == (4, 4)
    assert written["scores"]["head"]["macro_f1"]["mean"] == report.score("head", "macro_f1").mean
    assert (out / "benchmark.csv").read_text().count("\n") == 5

    trained = []
    monkeypatch.setattr(sweep_run, "train", lambda *given: trained.append(given))
    again = benchmark(folds, cache, out, heads, seeds=(1, 2))
    assert not trained  # finished runs are not repeated
    assert again.runs == report.runs

    with pytest.raises(RunError, match="holds a run of another recipe"):
        benchmark(folds, cache, out, heads, ("training.epochs=2",), seeds=(1,))


def test_the_command_runs_folds_in_processes(
    folds: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(to_toml(heads))
    given = ["benchmark", "emobox", str(folds), "--recipe", str(tmp_path / "recipe.toml")]
    given += ["--cache", str(cache), "--out", str(tmp_path / "bench"), "--seeds", "1"]
    done = CliRunner().invoke(rellm, [*given, "--processes", "2"])
    assert done.exit_code == 0, done.output
    assert "EmoBox: WavLM-large" in done.output
    assert "Not the whole benchmark: fold_2: 2 of 3 clips of test" in done.output
    assert len(list((tmp_path / "bench").glob("fold_*/baseline/seed-1/scores.json"))) == 2


def test_folders_that_are_no_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found no folder fold_1"):
        find_folds(tmp_path, tmp_path)
    (tmp_path / "fold_1").mkdir()
    with pytest.raises(ManifestError, match=r"fold_1: found no train.jsonl"):
        find_folds(tmp_path, tmp_path)


def test_means_and_spreads(recipe: Recipe, tmp_path: Path) -> None:
    uas = {("fold_1", 1): 0.5, ("fold_1", 2): 0.7, ("fold_2", 1): 0.8, ("fold_2", 2): 0.8}
    runs = [
        FoldRun(fold, seed, tmp_path, scores={"head": {"ua": ua, "wa": 0, "macro_f1": 0}})
        for (fold, seed), ua in uas.items()
    ]
    report = BenchmarkReport(tmp_path, "esd", recipe, (), ("fold_1", "fold_2"), (1, 2), (), runs)
    assert report.to_json()["speaker_normalization"] is False
    score = report.score("head", "ua")
    assert score.mean == pytest.approx(0.7)
    assert score.sd_folds == pytest.approx(0.1 * 2**0.5)
    assert score.sd_seeds == pytest.approx(0.05 * 2**0.5)
    runs[3] = FoldRun("fold_2", 2, tmp_path, error="failed")
    assert report.score("head", "ua").sd_seeds is None  # seed 2 lacks a fold
    assert [run.error for run in report.failed] == ["failed"]


def test_scores_of_known_speakers_are_called_so(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = {n: replace(e, speaker_normalization=True) for n, e in recipe.encoders.items()}
    own = replace(recipe, encoders=encoders)
    report = BenchmarkReport(tmp_path, "ravdess", own, (), ("fold_1",), (1,))
    assert report.to_json()["speaker_normalization"] is True
    show(report)
    assert "EmoBox's leaderboard hears each clip alone" in capsys.readouterr().out
