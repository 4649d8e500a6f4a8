"""LoRA: no effect untrained, speech positions, gradients through 4-bit weights, peft's names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.lora import LoRA, with_lora
from rellm_cache.llm.packed_rows import PackedRow, Segment, pack

CPU = torch.device("cpu")
BEFORE, SPEECH, AFTER = 4, 7, 5  # tokens of the row below
SCOPES: tuple[Literal["speech", "all"], ...] = ("speech", "all")


def load(folder: Path, quantization: Literal["nf4", "int8", "none"] = "none") -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization=quantization), CPU)


def trained(lora: LoRA) -> LoRA:
    """Fill A and B with random values, the same for every LoRA of one shape."""
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return lora


def make_row(size: int, requires_grad: bool = False) -> PackedRow:
    """`[before][speech after]` of random embeddings."""
    values = torch.randn(
        BEFORE + SPEECH + AFTER, size, generator=torch.Generator().manual_seed(6)
    ).requires_grad_(requires_grad)
    return pack(
        [
            Segment(values[:BEFORE]),
            Segment(values[BEFORE:], parent=0, speech=SPEECH),
        ]
    )


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize("scope", SCOPES)
def test_the_untrained_model_equals_the_frozen_one(
    llm_folder: Path, scope: Any, quantization: Any
) -> None:
    llm = load(llm_folder, quantization)
    row = make_row(llm.hidden_size)
    expected = llm.hidden_states(row)
    adapted, lora = with_lora(llm, LoraConfig(scope=scope))
    assert torch.equal(adapted.hidden_states(row), expected)
    trained(lora)
    assert not torch.allclose(adapted.hidden_states(row), expected, atol=1e-2)
    # Both share their weights, and the frozen model is unchanged.
    assert torch.equal(llm.hidden_states(row), expected)
    own = {p.data_ptr() for p in lora.parameters()}
    frozen = {p.data_ptr() for p in llm.model.parameters()}
    assert {p.data_ptr() for p in adapted.model.parameters()} == own | frozen


def test_scope_speech_changes_neither_earlier_tokens_nor_text(llm_folder: Path) -> None:
    llm = load(llm_folder)
    adapted, lora = with_lora(llm, LoraConfig(scope="speech"))
    trained(lora)
    row = make_row(llm.hidden_size)
    found, expected = adapted.hidden_states(row), llm.hidden_states(row)
    assert torch.equal(found[:BEFORE], expected[:BEFORE])
    assert (found - expected)[BEFORE:].abs().amax(
        1
    ).min() > 1e-3  # speech, and tokens that attend to it
    text = [llm.embed(llm.chat.ids("Hello"))]
    assert continue_prompts(adapted, text, 6) == continue_prompts(llm, text, 6)


def greedy_without_past(llm: FrozenLLM, prompt: Tensor, speech: range, tokens: int) -> list[int]:
    """Greedy tokens, each from a forward pass over all tokens before it."""
    ids: list[int] = []
    for _ in range(tokens):
        rest = torch.cat([prompt[speech.start :], llm.embed(ids)])
        row = pack(
            [
                Segment(prompt[: speech.start]),
                Segment(rest, parent=0, speech=len(speech)),
            ]
        )
        ids.append(int((llm.hidden_states(row)[-1] @ llm.output_weight.T).argmax()))
    return ids


def test_generation_applies_it_to_speech_of_the_prompt_only(
    llm_folder: Path,
) -> None:
    llm = load(llm_folder)
    adapted, lora = with_lora(llm, LoraConfig(scope="speech", dropout=0.0))
    trained(lora)
    prompts = [torch.randn(n, llm.hidden_size) for n in (9, 14)]
    spans = [range(3, 8), range(4, 6)]
    found = continue_prompts(adapted, prompts, 6, [[span] for span in spans])
    for answer, prompt, span in zip(found, prompts, spans, strict=True):
        ids = greedy_without_past(adapted, prompt, span, 6)
        ends = [i for i, token in enumerate(ids) if token in llm.chat.stop_ids]
        kept = ids[: ends[0]] if ends else ids
        assert answer.text == llm.chat.tokenizer.decode(kept, skip_special_tokens=True).strip()
    assert found != continue_prompts(llm, prompts, 6)


def gradients(llm: FrozenLLM, lora: LoRA) -> dict[str, Tensor]:
    """Gradients of a fixed function of the hidden states."""
    lora.zero_grad()
    row = make_row(llm.hidden_size, requires_grad=True)
    llm.hidden_states(row).sin().sum().backward()
    return {name: p.grad.clone() for name, p in lora.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scope", SCOPES)
def test_nf4_gradients_are_correct_before_and_after_evaluation(
    llm_folder: Path, dequantized: Callable[[FrozenLLM], FrozenLLM], scope: Any
) -> None:
    llm = load(llm_folder, "nf4")
    plain = dequantized(llm)
    config = LoraConfig(scope=scope, dropout=0.0)
    (adapted, lora), (exact, other) = with_lora(llm, config), with_lora(plain, config)
    trained(lora)
    trained(other)
    expected = gradients(exact, other)

    def differences() -> Iterator[float]:
        found = gradients(adapted, lora)
        assert found.keys() == expected.keys() == dict(lora.named_parameters()).keys()
        for name, gradient in expected.items():
            yield float((found[name] - gradient).abs().max() / gradient.abs().max())

    assert max(differences()) < 1e-4
    continue_prompts(adapted, [torch.randn(9, llm.hidden_size)], 3, [[range(2, 5)]])
    with torch.inference_mode():
        adapted.hidden_states(make_row(llm.hidden_size))
    assert max(differences()) < 1e-4


@pytest.mark.parametrize("autocast", [False, True], ids=["as evaluated", "as trained"])
@pytest.mark.parametrize("scope", SCOPES)
def test_bf16_gradients_have_the_right_direction(
    llm_folder: Path, scope: Any, autocast: bool
) -> None:
    config = LoraConfig(scope=scope, dropout=0.0)
    exact, other = with_lora(load(llm_folder), config)
    llm = load(llm_folder)
    llm.model.to(torch.bfloat16)
    adapted, lora = with_lora(llm, config)
    expected = gradients(exact, trained(other))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(adapted, trained(lora))
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(
            found[name].flatten(), gradient.flatten(), dim=0
        )
        assert cosine > 0.98, name


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
def test_other_architectures(llm_folder: Path, kind: Any) -> None:
    torch.manual_seed(0)
    config = kind(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
    )
    llm = FrozenLLM(
        AutoModelForCausalLM.from_config(config), load(llm_folder).chat, LLMConfig("tiny")
    )
    adapted, lora = with_lora(llm, LoraConfig(scope="speech", dropout=0.0))
    row = make_row(llm.hidden_size)
    expected = llm.hidden_states(row)
    assert torch.equal(adapted.hidden_states(row), expected)
    trained(lora)
    changed = (adapted.hidden_states(row) - expected).abs().amax(1)
    assert not changed[:BEFORE].any()
    assert changed[BEFORE:].min() > 1e-2


# peft uses a name that is deprecated in transformers 5.23.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_the_weights_by_its_names(llm_folder: Path) -> None:
    llm = load(llm_folder)
    config = LoraConfig(rank=3, alpha=12.0, scope="all")
    adapted, lora = with_lora(llm, config)
    trained(lora).eval()
    peft_config = PeftConfig(
        r=3, lora_alpha=12, target_modules=list(config.targets), task_type="CAUSAL_LM"
    )
    theirs: Any = get_peft_model(load(llm_folder).model, peft_config).eval()
    state = {f"base_model.model.{name}": value for name, value in lora.state_dict().items()}
    assert not set_peft_model_state_dict(theirs, state).unexpected_keys
    tokens = torch.tensor([llm.chat.ids("How are you?")])
    with torch.no_grad():
        torch.testing.assert_close(adapted.model(tokens).logits, theirs(tokens).logits)


def test_trained_weights_are_float32_with_the_shape_of_the_rank(llm_folder: Path) -> None:
    llm = load(llm_folder)
    llm.model.to(torch.bfloat16)  # peft would use this dtype
    _, lora = with_lora(llm, LoraConfig(rank=3, targets=("q_proj", "down_proj")))
    shapes = {name: tuple(p.shape) for name, p in lora.named_parameters() if "layers.1." in name}
    assert shapes == {
        "model.layers.1.self_attn.q_proj.lora_A.weight": (3, 32),
        "model.layers.1.self_attn.q_proj.lora_B.weight": (32, 3),
        "model.layers.1.mlp.down_proj.lora_A.weight": (3, 64),
        "model.layers.1.mlp.down_proj.lora_B.weight": (32, 3),
    }
    assert {p.dtype for p in lora.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in lora.parameters())
    assert not any(p.requires_grad for p in llm.model.parameters())


@pytest.mark.parametrize("target", ["c_attn", "lm_head", "self_attn"])
def test_an_unknown_projection_is_named(llm_folder: Path, target: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"no projection '{target}'; it has down_proj, gate_proj"
    ):
        with_lora(load(llm_folder), LoraConfig(targets=("q_proj", target)))


def test_a_forward_call_without_a_speech_mask_is_refused(llm_folder: Path) -> None:
    adapted, _ = with_lora(load(llm_folder), LoraConfig(scope="speech"))
    with pytest.raises(RuntimeError, match=r"outside SpeechMask\.set"):
        adapted.model(torch.tensor([[1, 2, 3]]))


def test_a_call_with_past_keys_continues_the_mask(llm_folder: Path) -> None:
    llm = load(llm_folder)
    adapted, lora = with_lora(llm, LoraConfig(scope="speech", dropout=0.0))
    trained(lora)
    row = make_row(llm.hidden_size)
    expected = adapted.hidden_states(row)
    decoder = adapted.model.get_decoder()
    with torch.no_grad(), adapted.speech_mask.set(row.speech[None]):
        cut = BEFORE + 3
        first = decoder(inputs_embeds=row.embeddings[:, :cut], use_cache=True)
        rest = decoder(inputs_embeds=row.embeddings[:, cut:], past_key_values=first.past_key_values)
    found = torch.cat([first.last_hidden_state, rest.last_hidden_state], dim=1)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
