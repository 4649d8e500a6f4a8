"""train: learns, freezes, validates, resumes bit for bit, and refuses folders of other runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rellm_cache.cache_admin.maintenance import copy_cache
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import LLMConfig, LoraConfig, Recipe
from rellm_cache.errors import ManifestError, RunError, StoreError
from rellm_cache.evaluation.run import evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.runs import shared_models as resources
from rellm_cache.runs.weights import load_run
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.training.checkpoints import CheckpointManager, Position
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import record
from rellm_cache.utils.model_files import weight_files, weights_digest

TIMES = ("seconds", "waited")
KEPT = {".safetensors", ".pt", ".json", ".jsonl", ".toml"}


def saved(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_a_run_from_start_to_end(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> None:
    training = replace(quick.training, epochs=6, learning_rate=3e-3)
    report = train(replace(quick, training=training), corpus, cache, tmp_path / "run")
    assert report.steps == 6 * 4  # seven clips in batches of two
    for name in ("loss", "response_lm_loss", "emotion_lm_loss", "vad_loss"):
        assert report.validation[name] < report.untrained[name]
    rows = list(read_metrics(tmp_path / "run"))
    assert [r["step"] for r in rows if "validation" not in r] == list(range(1, 25))
    assert [r["epoch"] for r in rows if "validation" in r] == list(range(7))
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    # The same command again has nothing left to do and changes nothing.
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.suffix in KEPT}
    again = train(replace(quick, training=training), corpus, cache, tmp_path / "run")
    assert again.resumed_at == again.steps == report.steps
    assert before == {p: p.read_bytes() for p in before}


def test_a_run_that_has_ended_keeps_no_optimiser(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    train(quick, corpus, cache, tmp_path / "run")
    (last,) = (tmp_path / "run/checkpoints").glob("step-*")
    weights = (last / "adapter.safetensors").stat().st_size
    assert (last / "state.pt").stat().st_size < 10_000 < weights
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    assert load_file(last / "adapter.safetensors").keys() == dict(model.named_parameters()).keys()


def test_a_run_from_a_url_is_the_run_from_a_folder(
    corpus: Path, cache: Path, quick: Recipe, s3: Any, tmp_path: Path
) -> None:
    copy_cache(cache, open_mirror(s3.url))
    s3.forget_copies()
    remote = open_mirror(s3.url)
    for name, root in (("folder", cache), ("url", remote)):
        train(quick, corpus, root, tmp_path / name)
    assert same(saved(tmp_path / "folder"), saved(tmp_path / "url"))
    scores, answers = [], []
    for name, root in (("folder", cache), ("url", remote)):
        scores.append(evaluate(tmp_path / name, corpus / "test.jsonl", root).to_json())
        out = tmp_path / f"{name}.jsonl"
        answers.append(generate(tmp_path / name, corpus / "test.jsonl", out, root))
    assert scores[0] == scores[1]
    assert answers[0] == answers[1]
    assert len(s3.requests.of_frames()) == 2  # a part of either stream, once


def test_the_frozen_stay_frozen(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick.llm is not None
    recipe = replace(quick, llm=replace(quick.llm, quantization="nf4"))
    folders = [Path(quick.llm.model), Path(quick.encoders["speech"].model)]
    files = [weights_digest(folder) for folder in folders]
    loaded: list[tuple[FrozenLLM, dict[str, torch.Tensor]]] = []

    def load_and_remember(config: LLMConfig, device: torch.device) -> FrozenLLM:
        llm = load_llm(config, device)
        loaded.append((llm, {k: v.clone() for k, v in llm.model.state_dict().items()}))
        return llm

    monkeypatch.setattr(resources, "load_llm", load_and_remember)
    train(recipe, corpus, cache, tmp_path / "run")
    ((llm, before),) = loaded
    assert same(before, dict(llm.model.state_dict()))
    assert files == [weights_digest(folder) for folder in folders]
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    assert set(saved(tmp_path / "run")) == {n for n, p in model.named_parameters()}
    assert all(n.startswith(("adapter.", "heads.")) for n in saved(tmp_path / "run"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "optimizer": "adamw8bit",
            "param_dtype": "bf16",
            "gradient_dtype": "int8",
            "micro_batch_tokens": "auto",
            "weight_averaging": 0.75,
        },
    ],
    ids=["plain", "rounded"],
)
def test_killed_anywhere_it_goes_on_to_the_same_bits(
    corpus: Path,
    cache: Path,
    quick: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    # Random states matter, and a matrix is large enough for 8-bit moments.
    adapter = replace(quick.adapter, dropout=0.2, crop_frames=60, bottleneck=256)
    training = replace(quick.training, checkpoint_minutes=0.0, **settings)
    recipe = replace(quick, adapter=adapter, training=training)
    train(recipe, corpus, cache, tmp_path / "whole")

    def stop_at(step: int) -> None:
        ordinary = Optimizer.step

        def step_or_die(self: Optimizer, number: int) -> float:
            if number == step:
                raise KeyboardInterrupt
            return ordinary(self, number)

        with monkeypatch.context() as patch:
            patch.setattr(Optimizer, "step", step_or_die)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, corpus, cache, tmp_path / "pieces")

    stop_at(3)
    stop_at(6)
    report = train(recipe, corpus, cache, tmp_path / "pieces")
    assert report.resumed_at == 6
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "pieces"))

    def losses(run: Path) -> list[dict[str, object]]:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(run)]

    assert losses(tmp_path / "whole") == losses(tmp_path / "pieces")


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(replace(quick, seed=seed), corpus, cache, tmp_path / name)
    assert same(saved(tmp_path / "a"), saved(tmp_path / "b"))
    assert not same(saved(tmp_path / "a"), saved(tmp_path / "c"))


def test_the_mean_of_the_last_steps_is_validated_and_kept(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(quick.training, best_metric="last", weight_averaging=0.5)
    ordinary, places = Optimizer.step, []

    def watched(self: Optimizer, number: int) -> float:
        norm = ordinary(self, number)
        places.append({n: t.detach().clone() for n, t in self.masters.tensors.items()})
        return norm

    monkeypatch.setattr(Optimizer, "step", watched)
    train(replace(quick, training=training), corpus, cache, tmp_path / "mean")
    train(
        replace(quick, training=replace(training, weight_averaging=0.0)),
        corpus,
        cache,
        tmp_path / "end",
    )
    assert len(places) == 2 * 8
    for name, tensor in saved(tmp_path / "mean").items():
        torch.testing.assert_close(tensor, torch.stack([p[name] for p in places[4:8]]).mean(0))
    # Averaging does not touch training: both runs went the same way.
    for name, tensor in saved(tmp_path / "end").items():
        assert torch.equal(tensor, places[7][name])
        assert torch.equal(tensor, places[15][name])
    mean, end = (list(read_metrics(tmp_path / run))[-1]["validation"] for run in ("mean", "end"))
    assert mean["loss"] != end["loss"]


def test_accumulation_changes_nothing_but_memory(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    for name, size, parts in (("one", 7, 1), ("many", 1, 7)):
        training = replace(quick.training, batch_size=size, gradient_accumulation=parts, epochs=1)
        train(replace(quick, training=training), corpus, cache, tmp_path / name)
    one, many = (
        next(r for r in read_metrics(tmp_path / n) if r["step"] == 1) for n in ("one", "many")
    )
    for key in ("loss", "response_lm_loss", "emotion_ce_loss", "vad_loss", "gradient_norm"):
        assert one[key] == pytest.approx(many[key], rel=1e-4)


def test_bf16_weights_follow_float32_ones(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    """Over twelve steps of all clips, in which the loss falls by a tenth: each within 1 %."""
    settings = replace(quick.training, epochs=12, batch_size=7, learning_rate=3e-3)
    assert quick.llm is not None
    with_lora = replace(quick, llm=replace(quick.llm, lora=LoraConfig(dropout=0.0)))
    for weights in ("fp32", "bf16"):
        recipe = replace(with_lora, training=replace(settings, param_dtype=weights))
        train(recipe, corpus, cache, tmp_path / weights)
    rows = [[r for r in read_metrics(tmp_path / w) if "loss" in r] for w in ("fp32", "bf16")]
    for exact, rounded in zip(*rows, strict=True):
        assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert rows[0][-1]["loss"] < 0.9 * rows[0][0]["loss"]
    assert {t.dtype for t in saved(tmp_path / "bf16").values()} == {torch.bfloat16}
    evaluate(tmp_path / "bf16", corpus / "test.jsonl", cache)  # in float32


def test_gradients_in_8_bits_follow_float32_ones(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    """Over twelve steps of seven micro-batches, in which the loss falls by a tenth."""
    adapter = replace(quick.adapter, bottleneck=256)
    settings = replace(
        quick.training, epochs=12, batch_size=1, gradient_accumulation=7, learning_rate=3e-3
    )
    for dtype in ("fp32", "int8"):
        training = replace(settings, gradient_dtype=dtype)
        train(replace(quick, adapter=adapter, training=training), corpus, cache, tmp_path / dtype)
    rows = [[r for r in read_metrics(tmp_path / d) if "loss" in r] for d in ("fp32", "int8")]
    norms = [steps[0]["gradient_norm"] for steps in rows]
    assert norms[0] != norms[1]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    for exact, rounded in zip(*rows, strict=True):
        assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert rows[0][-1]["loss"] < 0.9 * rows[0][0]["loss"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_continued(
    corpus: Path,
    cache: Path,
    quick: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0)
    recipe = replace(quick, losses=losses, adapter=replace(quick.adapter, output_size=32))

    def die(self: CheckpointManager, position: Position) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save_final", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, corpus, cache, tmp_path / "run")
    whole = saved(tmp_path / "run")
    (_, newest) = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:1000])
    report = train(recipe, corpus, cache, tmp_path / "run")
    assert report.resumed_at == 4  # the end of the first of two epochs
    said = capsys.readouterr().err
    assert f"Note: {newest}: the checkpoint is damaged and skipped: state.pt: found other" in said
    assert same(whole, saved(tmp_path / "run"))
    assert [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r] == list(range(1, 9))


def test_without_response_loss_no_llm_is_loaded(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> FrozenLLM:
        raise AssertionError("the LLM was loaded")

    monkeypatch.setattr(resources, "load_llm", refuse)
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0)
    adapter = replace(quick.adapter, output_size=32)
    report = train(replace(quick, losses=losses, adapter=adapter), corpus, cache, tmp_path / "run")
    assert "response_lm_loss" not in report.validation


def test_adapter_or_llm_in_bf16_on_a_cpu(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    exact = replace(quick, training=replace(quick.training, epochs=1))
    recipes = {
        "exact": exact,
        "adapter": replace(exact, training=replace(exact.training, precision="bf16")),
        "llm": replace(exact, llm=replace(exact.require_llm(), cpu_precision="bf16")),
    }
    first = {}
    for name, recipe in recipes.items():
        train(recipe, corpus, cache, tmp_path / name)
        first[name] = next(r for r in read_metrics(tmp_path / name) if r["step"] == 1)
    for name in ("adapter", "llm"):
        loss, expected = (first[n]["response_lm_loss"] for n in (name, "exact"))
        assert loss != expected
        assert loss == pytest.approx(expected, rel=0.02)
    scores = [evaluate(tmp_path / name, corpus / "test.jsonl") for name in ("exact", "llm")]
    for found in scores:
        assert found.llm is not None
    assert scores[1].losses == pytest.approx(scores[0].losses, rel=0.05)


def test_starting_from_another_run(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    first = train(quick, corpus, cache, tmp_path / "first")
    training = replace(quick.training, init_from=str(tmp_path / "first"))
    second = train(replace(quick, training=training), corpus, cache, tmp_path / "second")
    assert second.untrained == pytest.approx(first.validation)


def test_the_run_pins_the_weights_it_was_trained_on(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    train(quick, corpus, cache, tmp_path / "run")
    written = load_recipe(str(tmp_path / "run" / "recipe.toml"))
    assert written.encoders["speech"].weights_sha256 == weights_digest(
        Path(quick.encoders["speech"].model)
    )
    assert weight_files(Path(quick.encoders["speech"].model))


def test_what_the_data_cannot_teach_is_said(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    (corpus / "validation.responses.jsonl").unlink()
    heads = replace(quick.heads, emotions=("neutral", "happy", "angry"), unlisted="ignore")
    notes = train(replace(quick, heads=heads), corpus, cache, tmp_path / "run").notes
    assert "1 of 7 clips are 'sad', which heads.emotions leaves out" in notes
    assert "validation: 2 of 2 clips have no response; `rellm respond` makes them" in notes


def test_emotions_that_the_recipe_does_not_name_are_refused(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    recipe = replace(quick, heads=replace(quick.heads, emotions=("fear", "happy", "angry")))
    wanted = r'\["happy", "angry", .*"sad".*--set heads.unlisted=ignore'
    with pytest.raises(ManifestError, match=f"does not name .*of 'sad'.*heads.emotions={wanted}"):
        train(recipe, corpus, cache, tmp_path / "run")
    losses = replace(recipe.losses, emotion_ce=0.0, emotion_lm=0.0)
    train(replace(recipe, losses=losses), corpus, cache, tmp_path / "other")


def test_soft_labels_are_trained_and_scored(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    for split in ("train", "validation", "test"):
        file = corpus / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for index, row in enumerate(rows):
            other = "sad" if row["emotion"] != "sad" else "happy"
            row["emotion"] = {row["emotion"]: 3 if index else 1, other: 1}  # the first is a tie
        file.write_text("\n".join(map(json.dumps, rows)))
    losses = replace(
        quick.losses, response_lm=0.0, emotion_lm=0.0, vad=0.0, class_weights="balanced"
    )
    recipe = replace(quick, losses=losses, adapter=replace(quick.adapter, output_size=8))
    report = train(recipe, corpus, cache, tmp_path / "run")
    assert report.validation["kl"] > 0
    assert "1 of 7 clips have no majority, as raters tie" in report.notes
    scores = evaluate(tmp_path / "run", corpus / "test.jsonl", cache).to_json()
    assert scores["head"]["kl"] > 0
    assert scores["head"]["count"] == scores["clips"] - 1
    assert "rater_kl" not in scores["losses"]


def test_clips_absent_from_the_cache(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    file = corpus / "train.jsonl"
    first = json.loads(file.read_text().splitlines()[0])
    with file.open("a") as lines:
        lines.write(json.dumps({**first, "id": "tones/new"}) + "\n")
    with pytest.raises(StoreError, match=r"1 of 10 clips are absent.*`rellm extract"):
        train(quick, corpus, cache, tmp_path / "run")


def test_no_train_split(quick: Recipe, tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    with pytest.raises(ManifestError, match=r"train\.jsonl: no such file"):
        train(quick, tmp_path / "manifest", tmp_path / "cache", tmp_path / "run")


def test_a_checkpoint_of_another_shape_is_named(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    train(quick, corpus, cache, tmp_path / "first")
    training = replace(quick.training, init_from=str(tmp_path / "first"))
    wider = replace(quick, adapter=replace(quick.adapter, width=24), training=training)
    with pytest.raises(RunError, match=r"tensor 'adapter\.convs.*found .* expected"):
        train(wider, corpus, cache, tmp_path / "second")


def test_a_run_goes_on_with_what_it_was_trained_on_alone(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(quick, corpus, cache, out)
    recipe, adapter = (out / "recipe.toml").read_text(), (out / "adapter.safetensors").read_bytes()

    other = recipe.replace(weights_digest(Path(quick.encoders["speech"].model)), "0" * 64)
    (out / "recipe.toml").write_text(other)  # as if its frames had been of another checkpoint
    record(out, ["recipe.toml"])
    with pytest.raises(RunError, match=r"encoders\.speech\.weights_sha256: wanted .*, found '0000"):
        train(quick, corpus, cache, out)
    (out / "recipe.toml").write_text(recipe)
    record(out, ["recipe.toml"])

    responses = corpus / "train.responses.jsonl"
    written = responses.read_text()
    responses.write_text(written.replace("So sad!", "Never mind!"))
    with pytest.raises(RunError, match="this run was trained on other data than the manifest"):
        train(quick, corpus, cache, out)
    without = replace(quick, losses=replace(quick.losses, response_lm=0.0))
    train(without, corpus, cache, tmp_path / "other")  # which learns from no response
    responses.write_text(written)
    train(without, corpus, cache, tmp_path / "other")
    assert train(quick, corpus, cache, out).resumed_at > 0
    assert (out / "adapter.safetensors").read_bytes() == adapter
