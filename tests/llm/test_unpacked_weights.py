"""Unpacked 4-bit weights: equal results, back to 4 bits afterwards, and none without memory."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm import unpacked_weights as module
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.unpacked_weights import unpacked_weights


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="nf4"), torch.device("cpu"))


def layers_replaced(llm: FrozenLLM) -> int:
    return sum("forward" in vars(layer) for layer in llm.model.modules())


def test_results_are_equal_bit_for_bit(llm: FrozenLLM) -> None:
    ids = torch.tensor([llm.chat.ids("What are you thinking about?")])
    with torch.inference_mode():
        before = llm.model(ids).logits
        with unpacked_weights(llm):
            assert layers_replaced(llm) == 7 * llm.model.config.num_hidden_layers
            assert torch.equal(llm.model(ids).logits, before)
        assert layers_replaced(llm) == 0
        assert torch.equal(llm.model(ids).logits, before)


def test_gradients_are_equal_bit_for_bit(llm: FrozenLLM) -> None:
    inputs = llm.embed(llm.chat.ids("What are you thinking about?"))[None].requires_grad_(True)

    def gradient() -> torch.Tensor:
        (found,) = torch.autograd.grad(llm.model(inputs_embeds=inputs).logits.sum(), inputs)
        return found

    before = gradient()
    with unpacked_weights(llm):
        assert torch.equal(gradient(), before)


def test_nested_blocks_end_with_the_outer_one(llm: FrozenLLM) -> None:
    with unpacked_weights(llm):
        held = layers_replaced(llm)
        with unpacked_weights(llm):
            assert layers_replaced(llm) == held
        assert layers_replaced(llm) == held
    assert layers_replaced(llm) == 0


def test_an_error_in_the_block_leaves_the_model_as_it_was(llm: FrozenLLM) -> None:
    with pytest.raises(KeyboardInterrupt), unpacked_weights(llm):
        raise KeyboardInterrupt
    assert layers_replaced(llm) == 0


def test_no_copy_where_memory_is_short(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_memory", lambda: (1000, 1000))
    with unpacked_weights(llm):
        assert layers_replaced(llm) == 0
