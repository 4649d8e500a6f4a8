"""Checksums of a run: every damage is found by `rellm check` and by the command that reads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import RunError
from rellm_cache.evaluation.predictions import PREDICTIONS, read_predictions
from rellm_cache.evaluation.run import evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.trained_run import Run
from rellm_cache.runs.card import read_card
from rellm_cache.runs.check import check_folder
from rellm_cache.runs.publish import publish
from rellm_cache.runs.weights import WEIGHTS, load_run
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import RESULTS

CPU = torch.device("cpu")


@pytest.fixture
def run(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> Path:
    """A scored run without an LLM."""
    extract(corpus, speech_recipe, tmp_path / "cache")
    training = replace(speech_recipe.training, epochs=1)
    recipe = replace(speech_recipe, training=training)
    train(recipe, corpus, tmp_path / "cache", tmp_path / "run")
    evaluate(tmp_path / "run", corpus / "test.jsonl")
    return tmp_path / "run"


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def zero_page(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(min(4096, len(data) - middle))


DAMAGES = (flip, zero_page, lambda data: data[:-1], lambda data: data + b" ")


def test_damage_anywhere_is_found_and_refused(run: Path, corpus: Path) -> None:
    test = corpus / "test.jsonl"
    whole = check_folder(run)
    assert (whole.damaged, whole.unrecorded) == ({}, [])
    readers: dict[str, Callable[[], object]] = {
        WEIGHTS: lambda: load_run(run, CPU),
        "adapter_config.json": lambda: publish(run, run.parent / "hub"),
        "recipe.toml": lambda: Run(run),
        "training.json": lambda: evaluate(run, test),
        "scores.json": lambda: read_card(run),
        "predictions.csv": lambda: read_predictions(run / PREDICTIONS),
        "evaluated.jsonl": lambda: evaluate(run, test),
        "metrics.jsonl": lambda: evaluate(run, test),
    }
    (checkpoint,) = (path.name for path in run.glob("checkpoints/step-*"))
    others = {"README.md", "report.html", "data.sha256", f"checkpoints/{checkpoint}"}
    assert others | readers.keys() <= {*whole.intact}
    for name, read in readers.items():
        data = (run / name).read_bytes()
        for damage in DAMAGES:
            (run / name).write_bytes(damage(data))
            assert set(check_folder(run).damaged) == {name}
            with pytest.raises(RunError, match=rf"{name}: found other bytes than {RESULTS} says"):
                read()
        (run / name).unlink()
        assert "is missing" in check_folder(run).damaged[name]
        (run / name).write_bytes(data)
    state = next(run.glob("checkpoints/step-*/state.pt"))
    state.write_bytes(flip(state.read_bytes()))
    assert set(check_folder(run).damaged) == {str(state.relative_to(run))}


def test_only_finite_floats_are_weights(run: Path, tmp_path: Path) -> None:
    good = load_file(run / WEIGHTS)
    name = max(good, key=lambda n: good[n].numel())
    nan, shape = good[name].clone(), good[name].flatten()
    nan.view(-1)[3] = torch.nan
    for tensor, problem in (
        (nan, "found NaN or infinite values"),
        (good[name] * torch.inf, "found NaN or infinite values"),
        (good[name].double(), r"found torch\.float64, expected torch\.float32"),
        (good[name].view(torch.int32), r"found torch\.int32"),
        (shape, "belongs to another recipe"),
    ):
        save_file(good | {name: tensor}, run / WEIGHTS)
        (run / RESULTS).unlink(missing_ok=True)  # as in a run of an older version
        with pytest.raises(RunError, match=problem):
            load_run(run, CPU)
        if tensor is not shape:
            assert problem[:9] in check_folder(run).damaged[WEIGHTS]
            with pytest.raises(RunError, match=problem):
                publish(run, tmp_path / "hub")
    torch.save(good, run / WEIGHTS)
    with pytest.raises(RunError, match="damaged, or no file of tensors"):
        publish(run, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_run_without_checksums_loads_and_can_get_them(run: Path, corpus: Path) -> None:
    (run / RESULTS).unlink()
    load_run(run, CPU)
    assert WEIGHTS in check_folder(run).unrecorded
    (run / "README.md").write_text("My own words")
    accepted = check_folder(run, accept=True)
    assert (accepted.damaged, accepted.unrecorded) == ({}, [])
    (run / RESULTS).write_text("flipped\n")
    for use in (lambda: load_run(run, CPU), lambda: evaluate(run, corpus / "test.jsonl")):
        with pytest.raises(RunError, match=r"results\.sha256: found 'flipped', expected lines of"):
            use()
    assert check_folder(run, accept=True).damaged == {}
    with pytest.raises(RunError, match=r"found no results\.sha256"):
        check_folder(corpus)


def test_a_published_folder_that_differs_from_its_sums_is_not_used(
    run: Path, corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    out, model = tmp_path / "hub", f"encoders.speech.model={'lab/whisper'}"
    publish(run, out, [model])
    assert check_folder(out).damaged == {}
    data = (out / WEIGHTS).read_bytes()
    (out / WEIGHTS).write_bytes(flip(data))
    assert set(check_folder(out).damaged) == {WEIGHTS}
    with pytest.raises(RunError, match=f"{WEIGHTS}: found other bytes than SHA256SUMS says"):
        load_run(out, CPU)
    with pytest.raises(RunError, match="a published folder never changes"):
        check_folder(out, accept=True)
