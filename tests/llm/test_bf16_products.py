"""bfloat16 products on a CPU: near float32 ones, the same unpacked or not, and told where slow."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.llm import bf16_products
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.lora import add_lora
from rellm_cache.llm.packed_rows import Segment, pack
from rellm_cache.llm.unpacked_weights import unpacked_weights
from rellm_cache.utils.console import say_once

CPU = torch.device("cpu")
Quantization = Literal["nf4", "int8", "none"]


def load(folder: Path, quantization: Quantization, precision: Literal["fp32", "bf16"]) -> FrozenLLM:
    config = LLMConfig(str(folder), quantization=quantization, cpu_precision=precision)
    return load_llm(config, CPU)


def gradient(llm: FrozenLLM, embeddings: torch.Tensor) -> torch.Tensor:
    """Gradient of a fixed function of the hidden states with respect to the embeddings."""
    leaf = embeddings.clone().requires_grad_()
    llm.hidden_states(pack([Segment(leaf)])).sin().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_gradients_and_logits_differ_by_rounding(
    llm_folder: Path, quantization: Quantization
) -> None:
    exact, rounded = (load(llm_folder, quantization, p) for p in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32
    embeddings = torch.randn(9, exact.hidden_size, generator=torch.manual_seed(0))
    gradients = [gradient(llm, embeddings).flatten() for llm in (exact, rounded)]
    assert not torch.equal(*gradients)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    logits = [llm.model(inputs_embeds=embeddings[None]).logits for llm in (exact, rounded)]
    error = (logits[0] - logits[1]).norm() / logits[0].norm()
    assert 0 < error < 0.02  # a bfloat16 has eight bits: 0.004 a product


def test_unpacked_weights_give_the_same_bits(llm_folder: Path) -> None:
    llm = load(llm_folder, "nf4", "bf16")
    embeddings = torch.randn(9, llm.hidden_size, generator=torch.manual_seed(0))
    with torch.inference_mode():
        before = llm.model(inputs_embeds=embeddings[None]).logits
        with unpacked_weights(llm):
            assert torch.equal(llm.model(inputs_embeds=embeddings[None]).logits, before)
        assert torch.equal(llm.model(inputs_embeds=embeddings[None]).logits, before)
    slope = gradient(llm, embeddings)
    with unpacked_weights(llm):
        assert torch.equal(gradient(llm, embeddings), slope)
    assert len(continue_prompts(llm, [embeddings], max_new_tokens=3)) == 1


def test_weights_of_losses_and_embeddings_are_not_rounded(llm_folder: Path) -> None:
    exact, rounded = (load(llm_folder, "none", p) for p in ("fp32", "bf16"))
    assert torch.equal(exact.output_weight, rounded.output_weight)
    ids = exact.chat.ids("Hello there")
    assert torch.equal(exact.embed(ids), rounded.embed(ids))


def test_integer_products_stay_as_they_are(llm_folder: Path) -> None:
    exact, rounded = (load(llm_folder, "int8", p) for p in ("fp32", "bf16"))
    embeddings = torch.randn(9, exact.hidden_size, generator=torch.manual_seed(0))
    assert torch.equal(*(gradient(llm, embeddings) for llm in (exact, rounded)))


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_lora_trains_in_float32(llm_folder: Path, quantization: Quantization) -> None:
    llm = load(llm_folder, quantization, "bf16")
    model = add_lora(llm.model, llm.speech_mask, LoraConfig(rank=2))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert {p.dtype for p in trained} == {torch.float32}


def test_precision_is_part_of_what_decides_answers() -> None:
    plain = LLMConfig("owner/name").identity
    assert "cpu_precision" not in plain
    rounded = LLMConfig("owner/name", cpu_precision="bf16").identity
    assert rounded == plain | {"cpu_precision": "bf16"}


@pytest.mark.parametrize(
    ("flags", "is_told"), [({"avx2"}, True), ({"avx512_bf16"}, False), (set(), False)]
)
def test_a_processor_without_bf16_is_told(
    llm_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: set[str],
    is_told: bool,
) -> None:
    monkeypatch.setattr(bf16_products, "cpu_flags", lambda: frozenset(flags))
    say_once.cache_clear()
    load(llm_folder, "none", "bf16")
    message = 'llm.cpu_precision = "bf16": this processor has none of avx512_bf16, amx_bf16'
    assert (message in capsys.readouterr().err) == is_told
