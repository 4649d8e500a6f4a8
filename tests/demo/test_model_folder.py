"""Weights that do not fit are refused; a written folder loads again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rellm_cache.demo.model_folder import check_fit, write_model
from rellm_cache.errors import RellmError

SOURCE = Path("model.gguf")
NORM = "model.norm.weight"


@pytest.fixture
def model(llm_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(llm_folder)


def refusal(config: LlamaConfig, state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(RellmError) as error:
        check_fit(LlamaForCausalLM, config, state, SOURCE)
    return str(error.value)


def test_a_weight_that_does_not_fit_is_named(model: LlamaForCausalLM) -> None:
    state = model.state_dict()
    check_fit(LlamaForCausalLM, model.config, state, SOURCE)
    expects = f"model.gguf: LlamaForCausalLM expects {NORM} of shape (32,), found"
    assert f"{expects} (31,)" in refusal(model.config, {**state, NORM: torch.ones(31)})
    assert f"{expects} None" in refusal(
        model.config, {key: value for key, value in state.items() if key != NORM}
    )
    added = refusal(model.config, {**state, "extra": torch.ones(1)})
    assert "expects extra of shape None, found (1,)" in added


def test_a_written_model_loads_and_its_tied_weights_are_stored_once(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    state = model.state_dict()
    write_model(tmp_path / "made", model.config, model.generation_config, state)
    stored = load_file(tmp_path / "made/model.safetensors")
    assert stored.keys() == state.keys() - {"lm_head.weight"}
    read = LlamaForCausalLM.from_pretrained(tmp_path / "made").state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())
