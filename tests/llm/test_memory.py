"""Memory footprint: the estimate equals what a loaded model keeps."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.lora import with_lora
from rellm_cache.llm.memory import Footprint, count_saved_bytes, estimate_footprint
from rellm_cache.llm.packed_rows import ALIGNED, Segment, pack

CPU = torch.device("cpu")


TOKENS, SPEECH = 90, 60


def width(attention: str) -> int:
    """Length of a line of the attention bias."""
    return -(-TOKENS // ALIGNED) * ALIGNED if attention == "sdpa" else TOKENS


def kept_bytes(llm: FrozenLLM) -> int:
    """Bytes that a forward pass of a row keeps, without weights."""
    inputs = torch.randn(TOKENS, llm.hidden_size, requires_grad=True)
    row = pack([Segment(inputs, speech=SPEECH)])
    with count_saved_bytes(llm.model) as kept:
        llm.hidden_states(row)
    return kept()


def both(config: LLMConfig) -> tuple[Footprint, FrozenLLM]:
    return estimate_footprint(config, torch.float32), load_llm(config, CPU)


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("lora", "changed"),
    [(None, 0), (LoraConfig(rank=4), SPEECH), (LoraConfig(rank=4, scope="all"), TOKENS)],
    ids=["frozen", "LoRA on speech", "LoRA on all"],
)
def test_activation_bytes_equal_those_of_a_real_row(
    llm_folder: Path, checkpoint: bool, lora: LoraConfig | None, changed: int, attention: Any
) -> None:
    config = LLMConfig(
        str(llm_folder),
        quantization="none",
        attention=attention,
        activation_checkpointing=checkpoint,
        lora=lora,
    )
    counted, llm = both(config)
    if lora:
        llm, trained = with_lora(llm, lora)
        assert counted.lora_parameters == sum(p.numel() for p in trained.parameters())
    expected = TOKENS * counted.activation_bytes + changed * counted.lora_activation_bytes
    if not checkpoint:  # else the layers' arguments hold it, which is not counted
        expected += 4 * TOKENS * width(attention)  # the bias, once for all layers
    assert kept_bytes(llm) == pytest.approx(expected, rel=0.05)


def test_a_segment_keeps_a_copy_of_keys_and_values_that_it_continues(llm_folder: Path) -> None:
    counted, llm = both(LLMConfig(str(llm_folder), quantization="none"))
    first = Segment(torch.randn(40, llm.hidden_size, requires_grad=True))
    others = [Segment(torch.randn(25, llm.hidden_size), parent=parent) for parent in (0, 0, None)]
    kept = []
    for continued in (others[:2], [others[2]] * 2):
        row = pack([first, *continued])
        with count_saved_bytes(llm.model) as keeps:
            llm.hidden_states(row)
        kept.append(keeps())
    biases = 2 * 25 * 40 * 4
    assert kept[0] - kept[1] == 2 * 40 * counted.copied_kv_bytes + biases


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["frozen", "LoRA"])
def test_recompute_bytes_are_those_of_one_layer(llm_folder: Path, lora: LoraConfig | None) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", lora=lora)
    whole = estimate_footprint(config, torch.float32)
    again = estimate_footprint(replace(config, activation_checkpointing=True), torch.float32)
    layers = 2
    gradients = 3 * AutoConfig.from_pretrained(llm_folder).intermediate_size * 4
    assert again.recompute_bytes == pytest.approx(whole.activation_bytes / layers + gradients)
    assert again.lora_recompute_bytes == pytest.approx(whole.lora_activation_bytes / layers)
    assert again.lora_activation_bytes == 0


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_weight_bytes_equal_those_of_the_loaded_model(
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


def test_offloaded_activations_leave_two_inputs_on_the_device(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), activation_checkpointing=True)
    kept = estimate_footprint(config, torch.bfloat16)
    moved = estimate_footprint(replace(config, offload_activations=True), torch.bfloat16)
    assert kept.window_bytes == 0
    assert moved.window_bytes == 2 * 2 * kept.hidden_size
    layers = 2
    assert kept.activation_bytes - moved.activation_bytes == layers * 2 * kept.hidden_size
    assert moved.recompute_bytes == kept.recompute_bytes


@pytest.fixture
def untied(llm_folder: Path, tmp_path: Path) -> Path:
    """A chat model with an output matrix of its own."""
    model = AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False)
    folder = Path(shutil.copytree(llm_folder, tmp_path / "untied"))
    model.save_pretrained(folder)
    return folder


def test_an_output_matrix_in_4_bits_takes_half_a_byte_a_value(
    llm_folder: Path, untied: Path
) -> None:
    config = LLMConfig(str(untied))
    whole = estimate_footprint(config, torch.bfloat16)
    packed = estimate_footprint(replace(config, quantize_output=True), torch.bfloat16)
    values = whole.vocabulary * whole.hidden_size
    saved = (whole.device_bytes - packed.device_bytes) / values
    assert saved == pytest.approx(2 - 0.516, abs=0.01)
    assert (whole.output_rows, packed.output_rows) == (0, whole.vocabulary)
    with pytest.raises(ConfigError, match=r"llm\.quantize_output = true: .* ties its input"):
        estimate_footprint(LLMConfig(str(llm_folder), quantize_output=True), torch.bfloat16)


def test_offloaded_embeddings_take_no_device_memory(untied: Path) -> None:
    config = LLMConfig(str(untied))
    device = estimate_footprint(config, torch.bfloat16)
    host = estimate_footprint(replace(config, offload_embeddings=True), torch.bfloat16)
    assert host.host_bytes == device.device_bytes - host.device_bytes
    assert host.host_bytes == device.vocabulary * device.hidden_size * 2


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        estimate_footprint(LLMConfig(str(tmp_path)), torch.float32)
