"""LLMs with random weights, compared with loaded ones of the same shape."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_chat, load_llm
from rellm_cache.llm.packed_rows import pack
from rellm_cache.llm.random_weights import random_llm

CPU = torch.device("cpu")


def made(folder: Path, **fields: object) -> FrozenLLM:
    config = LLMConfig(str(folder), **fields)  # type: ignore[arg-type]
    shape = AutoConfig.from_pretrained(folder)
    return random_llm(config, shape, load_chat(config), CPU)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_it_has_the_tensors_of_a_loaded_model(llm_folder: Path, quantization: str) -> None:
    loaded = load_llm(LLMConfig(str(llm_folder), quantization=quantization), CPU)  # type: ignore[arg-type]
    random = made(llm_folder, quantization=quantization)
    tensors = [
        {
            name: (tensor.shape, tensor.dtype, tensor.device)
            for name, tensor in llm.model.state_dict().items()
            if "quant_state" not in name  # JSON, as long as its numbers are
        }
        for llm in (loaded, random)
    ]
    assert tensors[0] == tensors[1]
    kinds = [[type(module) for module in llm.model.modules()] for llm in (loaded, random)]
    assert kinds[0] == kinds[1]
    buffers = dict(random.model.named_buffers())
    for name, expected in loaded.model.named_buffers():
        assert buffers[name].equal(expected)


def test_layers_are_copies_that_share_no_memory(llm_folder: Path) -> None:
    first, second = (
        layer.mlp.gate_proj.weight
        for layer in made(llm_folder, quantization="nf4").model.model.layers
    )
    assert first.equal(second)
    assert first.data_ptr() != second.data_ptr()
    assert first.quant_state.absmax.data_ptr() != second.quant_state.absmax.data_ptr()


def test_gradients_pass_through_it(llm_folder: Path) -> None:
    llm = made(llm_folder, quantization="nf4")
    speech = torch.randn(3, llm.hidden_size, requires_grad=True)
    hidden = llm.hidden_states(pack([llm.segment(speech, (1, 2), (3, 4))]))
    hidden.sum().backward()
    assert speech.grad is not None
    assert speech.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in llm.model.parameters())


def test_an_untied_output_matrix_may_be_quantized(llm_folder: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False).save_pretrained(
        tmp_path
    )
    for file in llm_folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes(
        (llm_folder / "chat_template.jinja").read_bytes()
    )
    options = {"quantize_output": True, "offload_embeddings": True}
    loaded = load_llm(LLMConfig(str(tmp_path), **options), CPU)
    random = made(tmp_path, **options)
    assert type(random.output_weight) is type(loaded.output_weight)
    with pytest.raises(ConfigError, match="quantize_output"):
        made(llm_folder, quantize_output=True)
