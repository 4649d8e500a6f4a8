"""Loading of the LLM: offloaded embeddings, generation settings, errors of model folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm

CPU = torch.device("cpu")


def load(folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization="none"), CPU)


def test_offloaded_embeddings_give_the_same_answers(llm_folder: Path, tmp_path: Path) -> None:
    untied = tmp_path / "untied"
    shutil.copytree(llm_folder, untied)
    model = AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False)
    model.save_pretrained(untied)
    device = load(untied)
    host = load_llm(LLMConfig(str(untied), quantization="none", offload_embeddings=True), CPU)
    held = {name for name, _ in device.model.named_parameters()}
    assert held - {name for name, _ in host.model.named_parameters()} == {
        "model.embed_tokens.weight"
    }
    ids = device.chat.ids("Hello")
    assert torch.equal(host.embed(ids), device.embed(ids))
    answers = [continue_prompts(llm, [llm.embed(ids)], 5) for llm in (device, host)]
    assert answers[0] == answers[1]


def test_tied_embeddings_cannot_be_offloaded(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", offload_embeddings=True)
    with pytest.raises(ConfigError, match=r"llm\.offload_embeddings = true: .* ties its input"):
        load_llm(config, CPU)


def test_generation_settings_of_a_checkpoint_are_ignored(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    shipped = {"do_sample": True, "repetition_penalty": 1e6, "top_k": 3, "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(shipped))
    answers = []
    for llm in (load(llm_folder), load(folder)):
        torch.manual_seed(4)
        prompts = [torch.randn(5, llm.hidden_size) for _ in range(4)]
        answers.append(continue_prompts(llm, prompts, max_new_tokens=10))
    assert answers[0] == answers[1]


def test_a_missing_file_is_named(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing from the model folder"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"config\.json: not JSON"),
        ("tokenizer.json", r"tokenizer\.json: not JSON"),
    ],
)
def test_a_damaged_file_is_an_error_of_ours(
    llm_folder: Path, tmp_path: Path, file: str, message: str
) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    (folder / file).write_text('{"version"')
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_missing_weights_are_named(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ConfigError, match=r"chat: the checkpoint lacks \['lm_head\.weight'\]"):
        load(folder)


def test_code_in_a_model_folder_is_never_executed(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "new", "auto_map": {"AutoModelForCausalLM": "modeling_new.New"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json: found 'auto_map', which asks for"):
        load(folder)
