"""Runs on several layers: learned weights trained, resumed, loaded, published and reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from rellm_cache.config.recipes import identity_toml, load_recipe, to_toml
from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.llm.memory import count_saved_bytes
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.planning.training import plan_training
from rellm_cache.runs.provenance import load_training
from rellm_cache.runs.publish import publish
from rellm_cache.runs.weights import load_run, load_tensors, save_tensors
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train

NAME = "layer_mix.speech_layers.weights"


@pytest.fixture
def layered(speech_recipe: Recipe) -> Recipe:
    """Weighted sum of three layers, crops, dropout, CCC, projection and attentive statistics."""
    speech = replace(speech_recipe.encoders["speech"], layers=(0, 1, 2))
    return replace(
        speech_recipe,
        encoders={"speech": speech},
        adapter=replace(
            speech_recipe.adapter,
            layer_mix="softmax",
            layer_norm=True,
            dropout=0.2,
            crop_frames=40,
        ),
        heads=replace(speech_recipe.heads, pooling="attentive_statistics", projection=8),
        losses=replace(speech_recipe.losses, vad_kind="ccc"),
        training=replace(
            speech_recipe.training,
            epochs=2,
            batch_size=2,
            gradient_accumulation=2,
            warmup_steps=0,
            learning_rate=0.01,
            weight_averaging=0.5,
            checkpoint_minutes=0.0,
        ),
    )


def read(path: Path) -> str:
    return path.read_text("utf-8")


@pytest.fixture
def layers(corpus: Path, layered: Recipe, tmp_path: Path) -> Path:
    """Cache with three layers."""
    extract(corpus, layered, tmp_path / "layers")
    return tmp_path / "layers"


def test_learned_weights_from_training_to_the_report(
    corpus: Path,
    layers: Path,
    layered: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    report = train(layered, corpus, layers, run)
    weights = load_file(run / "adapter.safetensors")[NAME].softmax(0).tolist()
    assert report.layer_weights == {"speech": dict(zip("012", weights, strict=True))}
    assert sum(weights) == pytest.approx(1)
    assert max(weights) - min(weights) > 1e-3  # equal at first
    assert load_training(run).layer_weights == report.layer_weights
    assert train(layered, corpus, layers, run).layer_weights == report.layer_weights

    with monkeypatch.context() as patch:
        ordinary = Optimizer.step

        def step_or_interrupt(optimizer: Optimizer, number: int) -> float:
            if number == 3:
                raise KeyboardInterrupt
            return ordinary(optimizer, number)

        patch.setattr(Optimizer, "step", step_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(layered, corpus, layers, tmp_path / "pieces")
    assert train(layered, corpus, layers, tmp_path / "pieces").layer_weights == report.layer_weights

    clips = read_split(corpus, "train")
    seconds = {clip.id: clip.duration or 0.0 for clip in clips}
    plan = plan_training(layered, clips, seconds, {"speech": 48}, torch.float32)
    assert plan.trained == report.trainable

    further = replace(layered.training, init_from=str(run))
    second = train(replace(layered, training=further), corpus, layers, tmp_path / "second")
    assert second.untrained == pytest.approx(report.validation)

    scores = evaluate(run, corpus / "test.jsonl", layers, EvaluationOptions(samples=0))
    assert scores.layer_weights == report.layer_weights
    written = json.loads(read(run / "scores.json"))
    assert written["layer_weights"] == report.layer_weights
    page = read(run / "report.html")
    assert page.count('<td class="bar">') == 3
    largest = max(range(3), key=weights.__getitem__)
    row = page[page.index(f'<th scope="row">layer {largest}</th>') :]
    assert row[: row.index("</tr>")].endswith(
        f'<span style="width: 100.0%"></span></td><td>{100 * weights[largest]:.1f} %</td>'
    )
    assert f"weights of the layers of speech: 0 {100 * weights[0]:.1f} %" in read(run / "README.md")

    (tmp_path / "models/lab").mkdir(parents=True)
    (tmp_path / "models/lab/whisper").symlink_to(layered.encoders["speech"].model)
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path / "models"))
    published = tmp_path / "published"
    publish(run, published, ["encoders.speech.model=lab/whisper"])
    assert load_training(published).layer_weights == report.layer_weights
    _, model = load_run(published, torch.device("cpu"))
    assert model.layer_mix["speech_layers"].layer_weights.tolist() == pytest.approx(weights)


def test_a_clip_alone_and_in_a_batch(layered: Recipe) -> None:
    torch.manual_seed(0)
    model = SpeechLLM(layered, {"speech": 48}, None).eval()
    for parameter in (*model.layer_mix.parameters(), *model.heads.parameters()):
        torch.nn.init.normal_(parameter)
    lengths = torch.tensor([37, 90, 12])
    frames = torch.randn(3, 90, 48).half()

    def predict(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        unknown = torch.full((len(lengths), 3), torch.nan)
        labels = torch.zeros(len(lengths), dtype=torch.long)
        ids = tuple("abc"[: len(lengths)])
        batch = Batch(ids, {"speech": frames}, lengths, labels, unknown, ((),) * len(ids))
        return model(batch).emotion_logits

    together = predict(frames, lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = predict(frames[index : index + 1, :length], lengths[index : index + 1])
        # Logits are about 16, where float32 has steps of 1.9e-6.
        torch.testing.assert_close(alone[0], together[index], rtol=2e-6, atol=1e-5)


def test_the_statistics_of_mixed_layers_have_finite_gradients(layered: Recipe) -> None:
    """Also of a clip of one frame, which has no deviation."""
    adapter = AdapterConfig(kind="statistics", layer_mix="softmax", output_size=32)
    model = SpeechLLM(replace(layered, adapter=adapter), {"speech": 48}, None)
    batch = Batch(
        ids=("a", "b"),
        streams={"speech": torch.randn(2, 9, 48).half()},
        frame_lengths=torch.tensor([9, 1]),
        emotions=torch.tensor([0, 1]),
        vad=torch.rand(2, 3),
        targets=((), ()),
    )
    outputs = model(batch)
    outputs.emotion_logits.square().sum().backward()
    gradient = dict(model.named_parameters())[NAME].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("layer_mix", ["softmax", "concat"])
@pytest.mark.parametrize("crop_frames", [0, 400])
def test_the_plan_counts_what_a_step_keeps(
    corpus: Path, layered: Recipe, layer_mix: Literal["softmax", "concat"], crop_frames: int
) -> None:
    """Within 2 %, for long clips of layers of a usual size."""
    torch.manual_seed(0)
    adapter = replace(
        layered.adapter, layer_mix=layer_mix, crop_frames=crop_frames, width=64, output_size=128
    )
    heads = replace(layered.heads, projection=256)
    training = replace(layered.training, batch_size=2, gradient_accumulation=1)
    recipe = replace(layered, adapter=adapter, heads=heads, training=training)
    sizes = {"speech": 3 * 128}
    model = SpeechLLM(recipe, sizes, None).train()
    lengths = torch.tensor([1000, 1000])
    batch = Batch(
        ids=("a", "b"),
        streams={"speech": torch.randn(2, 1000, 384).half()},
        frame_lengths=lengths,
        emotions=torch.tensor([0, 1]),
        vad=torch.rand(2, 3),
        targets=((), ()),
    )
    with count_saved_bytes(model) as kept:
        model(batch)
    clips = read_split(corpus, "train")[:2]
    seconds = {clip.id: 20.0 for clip in clips}
    plan = plan_training(recipe, clips, seconds, sizes, torch.float32)
    assert plan.step_bytes == pytest.approx(kept(), rel=0.02)


def test_a_recipe_without_the_fields_is_the_same_recipe(speech_recipe: Recipe) -> None:
    lines = set(to_toml(speech_recipe).splitlines())
    later = {'layer_mix = "concat"', "layer_norm = false", "projection = 0"}
    assert later < lines - set(identity_toml(speech_recipe).splitlines())
    names = list(SpeechLLM(speech_recipe, {"speech": 16}, None).state_dict())
    assert all(name.startswith(("adapter.", "heads.category.", "heads.dim")) for name in names)


def test_a_mix_needs_several_layers(speech_recipe: Recipe) -> None:
    for change in ("layer_mix=softmax", "layer_norm=true"):
        with pytest.raises(
            ConfigError, match=r"adapter\.layer_.*expected a stream with several layers; set enc"
        ):
            load_recipe(speech_recipe, [f"adapter.{change}"])


def test_weights_of_other_layers_are_refused(layered: Recipe, tmp_path: Path) -> None:
    model = SpeechLLM(layered, {"speech": 48}, None)
    save_tensors(tmp_path / "w.safetensors", model)
    speech = replace(layered.encoders["speech"], layers=(1, 2))
    other = SpeechLLM(replace(layered, encoders={"speech": speech}), {"speech": 32}, None)
    with pytest.raises(RunError, match=rf"'{NAME}': found \(3,\), expected \(2,\)"):
        load_tensors(tmp_path / "w.safetensors", other)
    plain = replace(layered, heads=replace(layered.heads, pooling="mean", projection=0))
    fresh = SpeechLLM(plain, {"speech": 48}, None)
    load_tensors(tmp_path / "w.safetensors", fresh, ("adapter",))  # the pooling stays behind
    assert torch.equal(fresh.state_dict()[NAME], model.state_dict()[NAME])
