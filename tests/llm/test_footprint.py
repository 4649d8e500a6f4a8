"""The footprint is what a loaded model really keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from rellm_cache.config import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.footprint import Footprint, footprint
from rellm_cache.llm.frozen import FrozenLLM, load_llm
from rellm_cache.llm.packing import IGNORED, Segment, pack

CPU = torch.device("cpu")


def kept_bytes(llm: FrozenLLM, tokens: int) -> int:
    """What a real forward pass keeps, neither weights nor the mask counted."""
    own = {p.untyped_storage()._cdata for p in llm.model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and tensor.shape[-2:] != (tokens, tokens):
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    row = pack(
        [
            Segment(
                torch.randn(tokens, llm.hidden_size, requires_grad=True),
                torch.full((tokens,), IGNORED),
            )
        ]
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        llm.hidden_states(row)
    return sum(size for size, _ in kept.values())


def both(config: LLMConfig) -> tuple[Footprint, FrozenLLM]:
    return footprint(config, torch.float32), load_llm(config, CPU)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
def test_the_bytes_kept_are_those_of_a_real_row(llm_folder: Path, checkpoint: bool) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", checkpoint_activations=checkpoint)
    counted, llm = both(config)
    assert kept_bytes(llm, 90) == pytest.approx(90 * counted.kept_bytes, rel=0.15)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_the_weights_are_those_of_the_loaded_model(
    llm_folder: Path, quantization: Literal["nf4", "none"]
) -> None:
    counted, llm = both(LLMConfig(str(llm_folder), quantization=quantization))
    held = sum(p.nbytes for p in llm.model.parameters())
    if quantization == "nf4":  # bitsandbytes keeps its scales beside the parameters
        held += sum(
            p.quant_state.absmax.nbytes + p.quant_state.state2.absmax.nbytes
            for p in llm.model.parameters()
            if hasattr(p, "quant_state")
        )
    assert counted.device_bytes == pytest.approx(held, rel=0.01)
    assert counted.vocabulary == len(llm.output_weight)
    assert counted.hidden_size == llm.hidden_size


def test_embeddings_on_the_host_leave_the_device(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder))
    device = footprint(config, torch.bfloat16)
    host = footprint(replace(config, embeddings="host"), torch.bfloat16)
    assert host.host_bytes == device.device_bytes - host.device_bytes
    assert host.host_bytes == device.vocabulary * device.hidden_size * 2


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        footprint(LLMConfig(str(tmp_path)), torch.float32)
