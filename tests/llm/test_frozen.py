"""The frozen LLM: 4-bit on CPU with right gradients, greedy answers, a limit of length."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import continue_prompts
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packing import Segment, pack

CPU = torch.device("cpu")
Dequantised = Callable[[FrozenLLM], FrozenLLM]


def load(folder: Path, quantization: Literal["nf4", "int8", "none"]) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization=quantization), CPU)


def gradient(llm: FrozenLLM, embeddings: torch.Tensor) -> torch.Tensor:
    """Of a fixed function of the hidden states with respect to the embeddings."""
    leaf = embeddings.clone().requires_grad_()
    row = pack([Segment(leaf)])
    llm.hidden_states(row).sin().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_nf4_gradients_are_right_before_and_after_evaluation(
    llm_folder: Path, dequantised: Dequantised
) -> None:
    llm = load(llm_folder, "nf4")
    layers = [m for m in llm.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers
    assert all(not m.support_avx512bf16_for_cpu for m in layers)
    assert all(m.weight.quant_state.nested for m in layers)  # double quantisation
    embeddings = torch.randn(9, llm.hidden_size)
    expected = gradient(dequantised(llm), embeddings)
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)
    continue_prompts(llm, [embeddings], max_new_tokens=3)
    with torch.no_grad():
        llm.hidden_states(pack([Segment(embeddings)]))
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)


def test_int8_passes_gradients_that_point_the_right_way(llm_folder: Path) -> None:
    llm, plain = load(llm_folder, "int8"), load(llm_folder, "none")
    torch.manual_seed(0)
    assert any(isinstance(m, bitsandbytes.nn.Linear8bitLt) for m in llm.model.modules())
    embeddings = torch.randn(9, llm.hidden_size)
    cosine = torch.nn.functional.cosine_similarity(
        gradient(llm, embeddings).flatten(), gradient(plain, embeddings).flatten(), dim=0
    )
    assert cosine > 0.98


def test_greedy_in_a_batch_is_greedy_alone(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A much longer prompt", "x")]
    together = continue_prompts(llm, prompts, max_new_tokens=6)
    assert together == [continue_prompts(llm, [p], max_new_tokens=6)[0] for p in prompts]


def test_greedy_continues_as_the_model_itself_would(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    ids = list(llm.chat.ids("Hello"))
    for _ in range(5):
        logits = llm.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    expected = [i for i in ids[len(llm.chat.ids("Hello")) :] if i not in llm.chat.stop_ids]
    answer = continue_prompts(llm, [llm.embed(llm.chat.ids("Hello"))], max_new_tokens=5)[0]
    assert answer.text == llm.chat.tokenizer.decode(expected).strip()
    assert answer.early_stop == (len(expected) == 5)


def test_checkpointed_layers_keep_less(llm_folder: Path) -> None:
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


def test_rows_and_answers_beyond_the_models_length_are_refused(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    half = torch.zeros(1100, llm.hidden_size)
    segments = [Segment(half) for _ in range(2)]
    llm.hidden_states(pack(segments))  # each in a place of its own: long rows are no matter
    longer = [segments[0], Segment(half, parent=0)]
    with pytest.raises(ConfigError, match=r"take 2200 positions, but .* supports 2048"):
        llm.hidden_states(pack(longer))
    with pytest.raises(ConfigError, match=r"take 2049 positions.*prompts\.answer_tokens"):
        continue_prompts(llm, [half], max_new_tokens=949)
