"""An imported BLSP-Emo adapter computes what BLSP-Emo's does, and its new weights can train."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blsp import BOTTLENECK, LLM, SPEECH, write_blsp
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from rellm_cache.cli import main
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import (
    AdapterConfig,
    EncoderConfig,
    HeadsConfig,
    LoraConfig,
    LossesConfig,
    Recipe,
)
from rellm_cache.encoders.whisper import WhisperEncoder
from rellm_cache.errors import ConfigError
from rellm_cache.extraction.run import extract
from rellm_cache.importers.blsp import import_blsp
from rellm_cache.model.adapter import Adapter
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import WEIGHTS, load_info, load_tensors
from rellm_cache.training.run import train

WHISPER = {
    "num_mel_bins": 80,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "activation_function": "gelu",
    "max_source_positions": 1500,
    "scale_embedding": False,
}
S, E, H = SPEECH, 6, LLM  # speech, emotion, LLM
Weights = dict[str, Tensor]
MakeBlsp = Callable[..., Path]


@pytest.fixture
def make_blsp(tmp_path: Path) -> MakeBlsp:
    """`make_blsp(…)`: a BLSP-Emo folder, with changes of its config."""
    return partial(write_blsp, tmp_path / "blsp-emo")


def blsp_adapter(weights: Weights, speech: Tensor) -> Tensor:
    """(T, S) -> (T / 8, H): a plain BLSP-Emo adapter, for one clip without padding."""
    x = speech.T[None]  # (1, S, T)
    for index in range(3):
        name = f"adapter.subsampler.conv_layers.{index}"
        x = F.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=2)
        values, gates = x.chunk(2, dim=1)
        x = values * gates.sigmoid()
    x = x[0].T
    x = x + F.gelu(x @ weights["adapter.fc1.weight"].T) @ weights["adapter.fc2.weight"].T
    return F.layer_norm(
        x, (H,), weights["adapter.speech_ln.weight"], weights["adapter.speech_ln.bias"], 1e-5
    )


def recipe_of(emotion: bool = True, **adapter: Any) -> Recipe:
    encoders = {"speech": EncoderConfig(kind="whisper", model="openai/whisper-large-v2")}
    if emotion:
        encoders["emotion"] = EncoderConfig(kind="wav2vec2-emotion", model="audeering/emotion")
    recipe = load_recipe("re-llm", [f"adapter.bottleneck={BOTTLENECK}"])
    config = AdapterConfig(**{"preset": "reference", "bottleneck": BOTTLENECK, **adapter})
    return Recipe(
        name="tiny", encoders=encoders, adapter=config, llm=recipe.llm, training=recipe.training
    )


def imported(out: Path, emotion_size: int = E) -> tuple[Recipe, SpeechLLM]:
    """The model that training starts from, as training loads it."""
    recipe = load_recipe(str(out / "recipe.toml"))
    assert recipe.training.init_from == str(out)
    sized = AdapterConfig(preset="reference", bottleneck=BOTTLENECK, output_size=H)
    recipe_without_llm = Recipe(name="x", encoders=recipe.encoders, adapter=sized, llm=recipe.llm)
    torch.manual_seed(99)  # nothing may be left of this
    model = SpeechLLM(recipe_without_llm, {"speech": S, "emotion": emotion_size}, None)
    load_tensors(Path(recipe.training.init_from) / WEIGHTS, model)
    return recipe, model


@pytest.mark.parametrize("emotion_size", [E, 0])
def test_the_adapter_starts_as_blsp_emos_function(
    make_blsp: MakeBlsp, tmp_path: Path, emotion_size: int
) -> None:
    folder = make_blsp()
    report = import_blsp(folder, tmp_path / "run", recipe_of(emotion_size > 0), {"emotion": E})
    assert (report.lora, report.lora_taken, report.emotion_head) == (10, False, True)
    _, model = imported(tmp_path / "run", emotion_size)
    weights = torch.load(folder / "pytorch_model-00002-of-00002.bin", weights_only=True)
    model.eval()
    for length in (1, 7, 40, 101):
        speech, emotion = torch.randn(length, S), 3 * torch.randn(length, emotion_size)
        frames = torch.cat([speech, emotion], dim=-1)
        found, lengths = model.adapter(frames[None], torch.tensor([length]))
        expected = blsp_adapter(weights, speech)
        assert lengths.tolist() == [len(expected)]
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


def test_every_new_weight_gets_a_gradient_by_the_second_step(
    make_blsp: MakeBlsp, tmp_path: Path
) -> None:
    import_blsp(make_blsp(), tmp_path / "run", recipe_of(), {"emotion": E})
    _, model = imported(tmp_path / "run")
    adapter = model.adapter
    frames, target = torch.randn(2, 64, S + E), torch.randn(2, 8, H)
    first = gradients(adapter, frames, target)
    # Before the first step: every way from emotion or a new channel into BLSP-Emo's own block.
    assert nonzero(first["convs.0.conv.weight"][own_rows(S), S:])
    assert nonzero(first["convs.1.conv.weight"][own_rows(S), S:])
    assert nonzero(first["convs.2.conv.weight"][:, S:])
    # New channels lead nowhere yet, so that the function is BLSP-Emo's.
    assert not first["convs.0.conv.weight"][new_rows()].any()
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            parameter -= 0.05 * first[name]
    second = gradients(adapter, frames, target)
    for name in ("convs.0.conv", "convs.1.conv"):
        assert nonzero(second[f"{name}.weight"][new_rows()])
        assert nonzero(second[f"{name}.bias"][new_rows()])


def gradients(adapter: Adapter, frames: Tensor, target: Tensor) -> Weights:
    adapter.zero_grad()
    found, _ = adapter(frames, torch.tensor([64, 50]))
    (found - target).square().mean().backward()
    return {n: p.grad.clone() for n, p in adapter.named_parameters() if p.grad is not None}


def own_rows(count: int, emotion: int = E) -> list[int]:
    """Rows of BLSP-Emo's values and gates in a convolution of S + E channels."""
    return [*range(count), *range(S + emotion, S + emotion + count)]


def new_rows() -> list[int]:
    return [*range(S, S + E), *range(S + E + S, 2 * (S + E))]


def nonzero(gradient: Tensor) -> bool:
    """Whether (nearly) every weight has a gradient."""
    return bool((gradient != 0).float().mean() > 0.95)


def test_the_encoder_is_the_tuned_whisper(make_blsp: MakeBlsp, tmp_path: Path) -> None:
    folder = make_blsp()
    report = import_blsp(folder, tmp_path / "run", recipe_of(), {"emotion": E})
    recipe, _ = imported(tmp_path / "run")
    assert recipe.encoders["speech"].model == str(report.whisper)
    encoder = WhisperEncoder(recipe.encoders["speech"], None, torch.device("cpu"))
    state = torch.load(folder / "pytorch_model-00001-of-00002.bin", weights_only=True)
    config = json.loads((folder / "config.json").read_text())["whisper_config"]
    reference = WhisperModel(WhisperConfig(**config)).eval()
    reference.encoder.load_state_dict(
        {n.removeprefix("whisper_model."): t for n, t in state.items()}
    )
    wave = np.random.default_rng(3).normal(0, 0.1, 16_000).astype(np.float32)
    mel = WhisperFeatureExtractor(feature_size=80)(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = reference.encoder(mel.input_features).last_hidden_state[0, :50]
    np.testing.assert_allclose(encoder.encode([wave])[0].frames, expected, atol=1e-5)


def test_the_run_folder_describes_itself(
    make_blsp: MakeBlsp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    report = import_blsp(make_blsp(), out, recipe_of(), {"emotion": E})
    info = load_info(out)
    assert (info.sizes, info.output_size) == ({"speech": S, "emotion": E}, H)
    state = load_file(out / WEIGHTS)
    assert info.trainable_parameters == report.trainable == sum(t.numel() for t in state.values())
    assert state["heads.category.weight"].shape == (5, H)
    again, folder = tmp_path / "again", tmp_path / "blsp-emo"
    recipe = ["--recipe", str(out / "recipe.toml"), "--stream-size", "emotion", str(E)]
    with pytest.raises(SystemExit) as end:
        main(["import", "blsp", str(folder), "--out", str(again), *recipe])
    assert end.value.code == 0
    assert "10 tensors of the LLM's LoRA were left out" in capsys.readouterr().out
    assert all(torch.equal(t, state[n]) for n, t in load_file(again / WEIGHTS).items())


def test_the_category_head_is_blsp_emos(make_blsp: MakeBlsp, tmp_path: Path) -> None:
    folder = make_blsp()
    theirs = torch.load(folder / "pytorch_model-00002-of-00002.bin", weights_only=True)
    head = theirs["hidden2emotion.weight"]  # neutral, happy, angry, sad, surprise
    heads = {
        "all": (HeadsConfig(), head),
        "some": (HeadsConfig(emotions=("sad", "neutral")), head[[3, 0]]),
    }
    for name, (config, expected) in heads.items():
        recipe = replace(recipe_of(), heads=config)
        import_blsp(folder, tmp_path / name, recipe, {"emotion": E})
        assert torch.equal(load_file(tmp_path / name / WEIGHTS)["heads.category.weight"], expected)
    wide = replace(recipe_of(), heads=HeadsConfig(pooling="statistics"))
    assert not import_blsp(folder, tmp_path / "wide", wide, {"emotion": E}).emotion_head


def with_lora(recipe: Recipe, **lora: Any) -> Recipe:
    assert recipe.llm is not None
    return replace(recipe, llm=replace(recipe.llm, lora=LoraConfig(**lora)))


def test_its_lora_is_taken_with_the_same_function(make_blsp: MakeBlsp, tmp_path: Path) -> None:
    folder = make_blsp()
    report = import_blsp(folder, tmp_path / "run", with_lora(recipe_of()), {"emotion": E})
    assert report.lora_taken
    theirs = torch.load(folder / "pytorch_model-00002-of-00002.bin", weights_only=True)
    ours = load_file(tmp_path / "run" / WEIGHTS)

    def added(weights: Weights, path: str, end: str = "") -> Tensor:
        return weights[f"{path}.lora_B{end}.weight"] @ weights[f"{path}.lora_A{end}.weight"]

    qwen, layer = "qwen_model.model.transformer.h.0", "lora.model.layers.0"
    fused = [added(ours, f"{layer}.self_attn.{name}_proj") for name in "qkv"]
    torch.testing.assert_close(
        torch.cat(fused), added(theirs, f"{qwen}.attn.c_attn", ".default"), rtol=0, atol=1e-5
    )
    for name, path in {
        "mlp.w1": "up_proj",
        "mlp.w2": "gate_proj",
        "mlp.c_proj": "down_proj",
    }.items():
        assert torch.equal(
            added(ours, f"{layer}.mlp.{path}"), added(theirs, f"{qwen}.{name}", ".default")
        )
    for other in ({"rank": 8}, {"alpha": 8.0}, {"targets": ("q_proj",)}):
        with pytest.raises(
            ConfigError, match=r"its LoRA has rank \[16\] and alpha 16\.0 at \['down_"
        ):
            import_blsp(folder, tmp_path / "x", with_lora(recipe_of(), **other), {"emotion": E})


def test_its_head_stays_frozen_before_a_new_adapter(
    make_blsp: MakeBlsp, corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    adapter = AdapterConfig(preset="reference", bottleneck=BOTTLENECK, output_size=H)
    training = replace(quick.training, epochs=1, init_parts=("emotion", "lora"))
    recipe = replace(
        quick,
        adapter=adapter,
        heads=HeadsConfig(freeze=("emotion",)),
        losses=LossesConfig(response_lm=0.0),
        training=replace(training, averaging="micro_batch"),
    )
    start = import_blsp(make_blsp(), tmp_path / "start", recipe, {"emotion": 16})
    recipe = load_recipe(str(start.recipe))
    extract(corpus, recipe, tmp_path / "cache")
    report = train(recipe, corpus, tmp_path / "cache", tmp_path / "run")
    before, after = (load_file(folder / WEIGHTS) for folder in (start.out, tmp_path / "run"))
    assert torch.equal(before["heads.category.weight"], after["heads.category.weight"])
    assert not torch.equal(before["heads.dimensions.weight"], after["heads.dimensions.weight"])
    name = "adapter.convs.0.conv.weight"
    assert (before[name] - after[name]).abs().max() > 0.2  # it started at random
    assert report.trainable == sum(t.numel() for t in after.values()) - 5 * H
    alone = replace(recipe, training=replace(training, init_from=""))
    with pytest.raises(ConfigError, match="the head 'emotion' would stay random; set training"):
        train(alone, corpus, tmp_path / "cache", tmp_path / "alone")


def test_its_recipe_has_absolute_paths(
    make_blsp: MakeBlsp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = import_blsp(make_blsp(), Path("runs/start"), recipe_of(), {"emotion": E})
    assert report.recipe == Path("runs/start/recipe.toml")
    recipe = load_recipe(str(report.recipe))
    assert recipe.training.init_from == str(tmp_path / "runs/start")
    assert recipe.encoders["speech"].model == str(tmp_path / "runs/start/whisper")


def test_its_recipe_trains_from_it(
    make_blsp: MakeBlsp, corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    adapter = AdapterConfig(preset="reference", bottleneck=BOTTLENECK, output_size=H)
    losses = LossesConfig(response_lm=0.0)
    recipe = replace(
        quick, adapter=adapter, losses=losses, training=replace(quick.training, epochs=1)
    )
    start = import_blsp(make_blsp(), tmp_path / "start", recipe, {"emotion": 16})
    recipe = load_recipe(str(start.recipe))
    extract(corpus, recipe, tmp_path / "cache")
    train(recipe, corpus, tmp_path / "cache", tmp_path / "run")
    before, after = (load_file(folder / WEIGHTS) for folder in (start.out, tmp_path / "run"))
    name = "adapter.convs.0.conv.weight"
    own = own_rows(S, 16)
    assert not before[name][own, S:].any()
    assert nonzero(after[name][own, S:])  # the emotion stream is heard
    torch.testing.assert_close(after[name][own, :S], before[name][own, :S], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_type": "cformer"}, r"adapter_type = 'cformer', expected 'subsampler'"),
        ({"conv_kernel_sizes": "3,3"}, r"conv_kernel_sizes = '3,3', expected '5,5,5'"),
        ({"adapter_hidden_layers": 2}, "adapter_hidden_layers = 2, expected 0"),
        ({"whisper_config": None}, r"\['Blsp2Model'\]; expected a BLSP-Emo checkpoint"),
        ({"qwen_config": {}}, "'hidden_size' is missing"),
        ({"adapter_inner_dim": "wide"}, "adapter_inner_dim has an invalid value"),
        ({"whisper_config": {**WHISPER, "d_model": "x"}}, "expected int, got str"),
        ({"whisper_config": {**WHISPER, "encoder_attention_heads": 0}}, "invalid value"),
        ({"adapter_inner_dim": 9}, r"adapter\.bottleneck: found 8, but .* needs 9"),
        (
            {"qwen_config": {"hidden_size": 64}},
            r"conv_layers\.2\.weight: found .* \(64, 16, 5\), expected .* \(128, 16, 5\)",
        ),
    ],
)
def test_another_checkpoint_is_refused(
    make_blsp: MakeBlsp, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        import_blsp(make_blsp(**changes), tmp_path / "run", recipe_of(), {"emotion": E})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "sizes", "message"),
    [
        (
            recipe_of(preset="lite"),
            {"emotion": E},
            r"adapter\.preset: found 'lite', .* 'reference'",
        ),
        (
            recipe_of(),
            {"emotoin": E},
            "size of stream 'emotion' is unknown; give --stream-size emo",
        ),
        (recipe_of(output_size=64), {"emotion": E}, r"adapter\.output_size: found 64, .* needs 32"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    make_blsp: MakeBlsp, tmp_path: Path, recipe: Recipe, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        import_blsp(make_blsp(), tmp_path / "run", recipe, sizes)


def test_a_missing_and_an_unknown_tensor_are_named(make_blsp: MakeBlsp, tmp_path: Path) -> None:
    folder = make_blsp()
    file = folder / "pytorch_model-00002-of-00002.bin"
    state = torch.load(file, weights_only=True)
    norm = state.pop("adapter.speech_ln.bias")
    torch.save(state, file)
    with pytest.raises(ConfigError, match=r"the weights lack adapter\.speech_ln\.bias"):
        import_blsp(folder, tmp_path / "run", recipe_of(), {"emotion": E})
    for old in folder.glob("pytorch*"):
        state |= torch.load(old, weights_only=True) if old.suffix == ".bin" else {}
        old.unlink()
    save_file(
        state | {"adapter.speech_ln.bias": norm, "adapter.gate": norm + 1},
        folder / "model.safetensors",
    )
    with pytest.raises(
        ConfigError, match=r"the weights hold adapter\.gate, which this model does not"
    ):
        import_blsp(folder, tmp_path / "run", recipe_of(), {"emotion": E})
