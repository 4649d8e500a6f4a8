"""Frozen LLM: gradients through 4-bit and 8-bit weights, checkpointing, length limit."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import Segment, pack

CPU = torch.device("cpu")
Dequantized = Callable[[FrozenLLM], FrozenLLM]


def load(folder: Path, quantization: Literal["nf4", "int8", "none"]) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization=quantization), CPU)


def gradient(llm: FrozenLLM, embeddings: torch.Tensor) -> torch.Tensor:
    """Gradient of a fixed function of the hidden states with respect to the embeddings."""
    leaf = embeddings.clone().requires_grad_()
    row = pack([Segment(leaf)])
    llm.hidden_states(row).sin().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_nf4_gradients_are_correct_before_and_after_evaluation(
    llm_folder: Path, dequantized: Dequantized
) -> None:
    llm = load(llm_folder, "nf4")
    layers = [m for m in llm.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers
    assert all(not m.support_avx512bf16_for_cpu for m in layers)
    assert all(m.weight.quant_state.nested for m in layers)  # double quantization
    embeddings = torch.randn(9, llm.hidden_size)
    expected = gradient(dequantized(llm), embeddings)
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)
    continue_prompts(llm, [embeddings], max_new_tokens=3)
    with torch.no_grad():
        llm.hidden_states(pack([Segment(embeddings)]))
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)


def test_int8_gradients_have_the_right_direction(llm_folder: Path) -> None:
    llm, plain = load(llm_folder, "int8"), load(llm_folder, "none")
    torch.manual_seed(0)
    assert any(isinstance(m, bitsandbytes.nn.Linear8bitLt) for m in llm.model.modules())
    embeddings = torch.randn(9, llm.hidden_size)
    cosine = torch.nn.functional.cosine_similarity(
        gradient(llm, embeddings).flatten(), gradient(plain, embeddings).flatten(), dim=0
    )
    assert cosine > 0.98


def test_checkpointing_keeps_fewer_activations(llm_folder: Path) -> None:
    saved: dict[bool, int] = {}
    for checkpoint in (False, True):
        config = LLMConfig(
            str(llm_folder), quantization="none", activation_checkpointing=checkpoint
        )
        llm = load_llm(config, CPU)
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradient(llm, torch.randn(50, llm.hidden_size))
        saved[checkpoint] = sum(kept)
        assert not any(m.training for m in llm.model.modules() if isinstance(m, torch.nn.Linear))
    assert saved[True] < saved[False] / 3


def test_rows_beyond_the_models_length_are_refused(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    half = torch.zeros(1100, llm.hidden_size)
    segments = [Segment(half) for _ in range(2)]
    llm.hidden_states(pack(segments))  # positions count per segment, so the row may be longer
    longer = [segments[0], Segment(half, parent=0)]
    with pytest.raises(ConfigError, match=r"take 2200 positions, but .* supports 2048"):
        llm.hidden_states(pack(longer))
