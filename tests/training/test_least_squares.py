"""training.solver = "least_squares": heads in closed form, speeds averaged, one step, resumable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rellm_cache as rellm
from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.evaluation.run import evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.trained_run import Run
from rellm_cache.runs.weights import load_run, read_tensors
from rellm_cache.training.least_squares import PENALTIES, Problem
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

SOLVED = {"epochs": 1, "solver": "least_squares", "warmup_steps": 0, "speed_copies": (0.9,)}


@pytest.fixture
def solved(speech_recipe: Recipe) -> Recipe:
    return replace(
        speech_recipe,
        adapter=AdapterConfig(kind="statistics"),
        heads=replace(speech_recipe.heads, speed_copies=(0.9, 1.1)),
        training=replace(speech_recipe.training, **SOLVED),
    )


@pytest.mark.parametrize("values", [5, 60])
def test_a_problem_is_solved_as_numpy_does(values: int) -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(40, values, generator=generator)
    targets = vectors[:, :2] + 0.1 * torch.randn(40, 2, generator=generator)
    weights = torch.rand(40, generator=generator) + 0.5
    folds = torch.arange(40) % 4
    fitted, held_out = Problem(vectors, targets, weights, folds).solve()
    x, y, w = (t.double().numpy() for t in (vectors, targets, weights))

    def ridge(rows: np.ndarray, penalty: float) -> np.ndarray:
        scaled = penalty * np.square(x).sum(1).mean()
        left = x[rows].T @ (w[rows, None] * x[rows]) + scaled * np.eye(values)
        return np.linalg.solve(left, x[rows].T @ (w[rows, None] * y[rows]))

    errors = {}
    for penalty in PENALTIES:
        predicted = np.zeros_like(y)
        for fold in range(4):
            held = folds.numpy() == fold
            predicted[held] = x[held] @ ridge(~held, penalty)
        errors[penalty] = w @ np.square(predicted - y).sum(1), predicted
    best = min(errors, key=lambda penalty: errors[penalty][0])
    assert best == PENALTIES[0]  # the targets are linear in the vectors
    np.testing.assert_allclose(held_out.numpy(), errors[best][1], atol=1e-4)
    np.testing.assert_allclose(fitted.T.numpy(), ridge(np.full(40, True), best), atol=1e-4)


def test_a_run_is_one_step_and_the_same_again(corpus: Path, solved: Recipe, tmp_path: Path) -> None:
    cache, clips = tmp_path / "cache", len(read_split(corpus, "train"))
    extract(corpus, replace(solved, heads=replace(solved.heads, speed_copies=())), cache)
    with pytest.raises(StoreError, match=r"07@0\.9"):  # of a validation clip
        train(solved, corpus, cache, tmp_path / "early")
    (added, *_) = extract(corpus, solved, cache)
    everything = sum(len(read_split(corpus, s)) for s in ("train", "validation", "test"))
    assert added.encoded == 2 * everything - clips
    report = train(solved, corpus, cache, tmp_path / "run")
    assert report.steps == 1
    (row,) = [row for row in read_metrics(tmp_path / "run") if "validation" not in row]
    assert row["loss"] == row["emotion_ce_loss"] + row.get("vad_loss", 0.0)
    weights = read_tensors(tmp_path / "run" / "adapter.safetensors")
    again = train(solved, corpus, cache, tmp_path / "again")
    assert again.validation == report.validation
    for name, tensor in read_tensors(tmp_path / "again" / "adapter.safetensors").items():
        assert torch.equal(tensor, weights[name])
    assert train(solved, corpus, cache, tmp_path / "run").resumed_at == 1

    evaluate(tmp_path / "run", corpus / "test.jsonl")
    assert (tmp_path / "run" / "scores.json").exists()


def test_logits_are_means_over_the_speeds(corpus: Path, solved: Recipe, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    extract(corpus, solved, cache)
    train(solved, corpus, cache, tmp_path / "run")
    run = Run(tmp_path / "run", cache)
    clip = read_split(corpus, "test")[0]
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    names = [clip.id, f"{clip.id}@0.9", f"{clip.id}@1.1"]
    pooled = torch.stack([torch.from_numpy(e.pooled) for e in run.embed(names)])
    logits, _ = model.heads(pooled)
    expected = dict(zip(model.emotions, logits.mean(0).softmax(0).tolist(), strict=True))
    by_id, by_file = run.recognise(clip.id), run.recognise(clip.audio)
    assert by_id.probabilities == pytest.approx(expected, abs=1e-5)
    assert by_file.probabilities == pytest.approx(expected, abs=1e-3)
    rellm.embed(run.path, corpus / "test.jsonl", cache, out=tmp_path / "npy", format="npy")
    np.testing.assert_allclose(np.load(tmp_path / "npy/pooled.npy")[0], pooled[0], atol=1e-5)
    single = dict(zip(model.emotions, logits[0].softmax(0).tolist(), strict=True))
    assert by_id.probabilities != pytest.approx(single, abs=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="with epochs = 40"):
        load_recipe("heads", ["training.solver=least_squares"])
    least = ["training.solver=least_squares", "training.epochs=1", "training.weight_averaging=0"]
    with pytest.raises(ConfigError, match="a loss needs the LLM"):
        load_recipe("small", least)
    with pytest.raises(ConfigError, match="hears a clip once"):
        load_recipe("small", ["heads.speed_copies=[0.9]"])


def test_the_fields_change_no_older_identity() -> None:
    text = identity_toml(load_recipe("heads"))
    assert "solver" not in text
    assert "speed_copies" not in text
    assert "speed_copies" in identity_toml(load_recipe("heads", ["heads.speed_copies=[0.9]"]))
