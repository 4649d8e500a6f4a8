"""train with LoRA on 4-bit weights: frozen weights stay, kills change no result, a run answers."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import LLMConfig, LoraConfig, Recipe
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.runs import shared_models as resources
from rellm_cache.runs.weights import load_run
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train

MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.fixture
def with_lora(quick: Recipe) -> Recipe:
    """LoRA with dropout on the tiny LLM in NF4, a checkpoint after every step."""
    assert quick.llm is not None
    llm = replace(quick.llm, quantization="nf4", lora=LoraConfig(rank=2, dropout=0.2))
    training = replace(quick.training, checkpoint_minutes=0.0, learning_rate=3e-3)
    return replace(quick, llm=llm, training=training)


def test_lora_trains_freezes_resumes_and_answers(
    corpus: Path,
    cache: Path,
    with_lora: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[tuple[FrozenLLM, dict[str, torch.Tensor]]] = []

    def load_and_remember(config: LLMConfig, device: torch.device) -> FrozenLLM:
        llm = load_llm(config, device)
        loaded.append((llm, {k: v.clone() for k, v in llm.model.state_dict().items()}))
        return llm

    with monkeypatch.context() as patch:
        patch.setattr(resources, "load_llm", load_and_remember)
        report = train(with_lora, corpus, cache, tmp_path / "whole")
    ((llm, before),) = loaded
    after = llm.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    saved = load_file(tmp_path / "whole/adapter.safetensors")
    matrices = {name: value for name, value in saved.items() if name.startswith("lora.")}
    assert len(matrices) == 2 * 7 * 2
    # Of the last layer, a loss on text meets what is at speech positions as keys and values alone.
    untouched = {name for name, value in matrices.items() if not value.any()}
    assert untouched == {
        f"lora.model.layers.1.{target}.lora_B.weight"
        for target in ("self_attn.q_proj", "self_attn.o_proj", *MLP)
    }
    assert report.validation["loss"] < report.untrained["loss"]

    ordinary = Optimizer.step

    def step_or_die(self: Optimizer, number: int) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return ordinary(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(with_lora, corpus, cache, tmp_path / "pieces")
    assert train(with_lora, corpus, cache, tmp_path / "pieces").resumed_at == 3
    pieces = load_file(tmp_path / "pieces/adapter.safetensors")
    assert pieces.keys() == saved.keys()
    assert all(torch.equal(pieces[name], saved[name]) for name in saved)

    recipe, model = load_run(tmp_path / "whole", torch.device("cpu"))
    assert recipe.llm == with_lora.llm == load_recipe(str(tmp_path / "whole/recipe.toml")).llm
    assert {n: p.tolist() for n, p in model.named_parameters()} == {
        n: p.tolist() for n, p in saved.items()
    }
    info = json.loads((tmp_path / "whole/adapter_config.json").read_text("utf-8"))
    assert info["lora"] == {
        **asdict(LoraConfig(rank=2, dropout=0.2)),
        "targets": list(LoraConfig().targets),
    }
    assert (
        info["trainable_parameters"] == report.trainable == sum(v.numel() for v in saved.values())
    )
    scores = evaluate(tmp_path / "whole", corpus / "validation.jsonl", cache, EvaluationOptions(1))
    assert scores.losses["response_lm"] == pytest.approx(
        report.validation["response_lm_loss"], rel=1e-5
    )
    assert len(generate(tmp_path / "whole", corpus / "test.jsonl", tmp_path / "out", cache)) == 2
