"""The frozen LLM: 4-bit on CPU with right gradients, greedy answers, clear refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import AutoModelForCausalLM

from rellm_cache.config import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM, load_llm
from rellm_cache.llm.packing import IGNORED, Segment, pack

CPU = torch.device("cpu")
Dequantised = Callable[[FrozenLLM], FrozenLLM]


def load(folder: Path, quantization: Literal["nf4", "int8", "none"]) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization=quantization), CPU)


def gradient(llm: FrozenLLM, embeddings: torch.Tensor) -> torch.Tensor:
    """Of a fixed function of the hidden states with respect to the embeddings."""
    leaf = embeddings.clone().requires_grad_()
    row = pack([Segment(leaf, torch.full((len(leaf),), IGNORED))])
    llm.hidden_states(row).sin().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_nf4_gradients_are_right_before_and_after_evaluation(
    llm_folder: Path, dequantised: Dequantised
) -> None:
    llm = load(llm_folder, "nf4")
    layers = [m for m in llm.model.modules() if isinstance(m, Linear4bit)]
    assert layers
    assert all(not m.support_avx512bf16_for_cpu for m in layers)
    assert all(m.weight.quant_state.nested for m in layers)  # double quantisation
    embeddings = torch.randn(9, llm.hidden_size)
    expected = gradient(dequantised(llm), embeddings)
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)
    llm.continue_greedily([embeddings], max_new_tokens=3)
    with torch.no_grad():
        llm.hidden_states(pack([Segment(embeddings, torch.full((9,), IGNORED))]))
    torch.testing.assert_close(gradient(llm, embeddings), expected, rtol=1e-4, atol=1e-5)


def test_int8_passes_gradients_that_point_the_right_way(llm_folder: Path) -> None:
    llm, plain = load(llm_folder, "int8"), load(llm_folder, "none")
    torch.manual_seed(0)
    assert any(isinstance(m, Linear8bitLt) for m in llm.model.modules())
    embeddings = torch.randn(9, llm.hidden_size)
    cosine = torch.nn.functional.cosine_similarity(
        gradient(llm, embeddings).flatten(), gradient(plain, embeddings).flatten(), dim=0
    )
    assert cosine > 0.98


def test_greedy_in_a_batch_is_greedy_alone(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    prompts = [llm.embed(llm.chat.ids(text)) for text in ("Hello", "A much longer prompt", "x")]
    together = llm.continue_greedily(prompts, max_new_tokens=6)
    assert together == [llm.continue_greedily([p], max_new_tokens=6)[0] for p in prompts]


def test_greedy_continues_as_the_model_itself_would(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    ids = list(llm.chat.ids("Hello"))
    for _ in range(5):
        logits = llm.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    expected = [i for i in ids[len(llm.chat.ids("Hello")) :] if i not in llm.chat.stop_ids]
    answer = llm.continue_greedily([llm.embed(llm.chat.ids("Hello"))], max_new_tokens=5)[0]
    assert answer.text == llm.chat.tokenizer.decode(expected).strip()
    assert answer.early_stop == (len(expected) == 5)


def test_embeddings_on_the_host_give_the_same_answers(llm_folder: Path, tmp_path: Path) -> None:
    untied = tmp_path / "untied"
    shutil.copytree(llm_folder, untied)
    model = AutoModelForCausalLM.from_pretrained(llm_folder, tie_word_embeddings=False)
    model.save_pretrained(untied)
    device = load(untied, "none")
    host = load_llm(LLMConfig(str(untied), quantization="none", embeddings="host"), CPU)
    held = {name for name, _ in device.model.named_parameters()}
    assert held - {name for name, _ in host.model.named_parameters()} == {
        "model.embed_tokens.weight"
    }
    ids = device.chat.ids("Hello")
    assert torch.equal(host.embed(ids), device.embed(ids))
    answers = [llm.continue_greedily([llm.embed(ids)], 5) for llm in (device, host)]
    assert answers[0] == answers[1]


def test_tied_embeddings_stay_on_the_device(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", embeddings="host")
    with pytest.raises(ConfigError, match=r'llm\.embeddings = "host": .* ties its input'):
        load_llm(config, CPU)


def test_checkpointed_layers_keep_less(llm_folder: Path) -> None:
    saved: dict[bool, int] = {}
    for checkpoint in (False, True):
        config = LLMConfig(str(llm_folder), quantization="none", checkpoint_activations=checkpoint)
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


def test_a_penalty_that_a_checkpoint_ships_changes_no_answer(
    llm_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    shipped = {"do_sample": True, "repetition_penalty": 1e6, "top_k": 3, "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(shipped))
    answers = []
    for llm in (load(llm_folder, "none"), load(folder, "none")):
        torch.manual_seed(4)
        prompts = [torch.randn(5, llm.hidden_size) for _ in range(4)]
        answers.append(llm.continue_greedily(prompts, max_new_tokens=10))
    assert answers[0] == answers[1]


def test_rows_and_answers_beyond_the_models_length_are_refused(llm_folder: Path) -> None:
    llm = load(llm_folder, "none")
    half = torch.zeros(1100, llm.hidden_size)
    segments = [Segment(half, torch.full((len(half),), IGNORED)) for _ in range(2)]
    llm.hidden_states(pack(segments))  # each in a place of its own: long rows are no matter
    longer = [segments[0], Segment(half, segments[0].labels, parent=0)]
    with pytest.raises(ConfigError, match=r"take 2200 positions, but .* was made for 2048"):
        llm.hidden_states(pack(longer))
    with pytest.raises(ConfigError, match=r"take 2049 positions.*prompts\.answer_tokens"):
        llm.continue_greedily([half], max_new_tokens=949)


def test_a_missing_file_is_named(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing from the model folder"):
        load(folder, "none")


def test_code_in_a_model_folder_is_never_run(llm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(llm_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "new", "auto_map": {"AutoModelForCausalLM": "modeling_new.New"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="needs Python code from the model folder"):
        load(folder, "none")
