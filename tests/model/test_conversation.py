"""Conversation: the prompt of all turns, with speech of earlier ones as embeddings."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.lora import with_lora
from rellm_cache.model.conversation import (
    ConversationLengthError,
    ReplySettings,
    Turn,
    reply_to,
)

SETTINGS = ReplySettings(6)


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def greedy(llm: FrozenLLM, prompt: torch.Tensor, count: int) -> tuple[int, ...]:
    """Token ids after a prompt (t, H), by whole forward passes."""
    ids: list[int] = []
    while len(ids) < count:
        whole = torch.cat([prompt, llm.embed(ids)])[None]
        ids.append(int(llm.model(inputs_embeds=whole).logits[0, -1].argmax()))
        if ids[-1] in llm.chat.stop_ids:
            return tuple(ids[:-1])
    return tuple(ids)


def test_a_reply_follows_all_turns(llm: FrozenLLM) -> None:
    torch.manual_seed(1)
    first, second = torch.randn(3, llm.hidden_size), torch.randn(5, llm.hidden_size)
    turns = [Turn(("Hear: ", ""), (first,)), Turn(("I do.",)), Turn(("", " again"), (second,))]
    reply = reply_to(llm, "Be kind.", turns, SETTINGS)
    before, between, after = llm.chat.conversation("Be kind.", [turn.texts for turn in turns])
    prompt = torch.cat([llm.embed(before), first, llm.embed(between), second, llm.embed(after)])
    assert reply.prompt_tokens == len(prompt)
    assert reply.continuation.ids == greedy(llm, prompt, 6)
    silent = reply_to(llm, "Be kind.", [Turn(("Hear: ",)), *turns[1:]], SETTINGS)
    assert silent.prompt_tokens == len(prompt) - len(first)


def test_speech_of_every_turn_is_speech_for_lora(llm: FrozenLLM) -> None:
    adapted, lora = with_lora(llm, LoraConfig(scope="speech", dropout=0.0))
    torch.manual_seed(1)
    for weight in lora.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    one, other = torch.randn(3, llm.hidden_size), torch.randn(4, llm.hidden_size)
    turns = [Turn(("", ""), (one,)), Turn(("Yes.",)), Turn(("", ""), (other,))]
    seen = []
    hook = (
        adapted.model.model.layers[0]
        .self_attn.q_proj.lora_A["default"]
        .register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    )
    reply_to(adapted, "", turns, SETTINGS)
    hook.remove()
    assert seen[0] == len(one) + len(other)


def test_a_conversation_that_is_too_long_is_refused(llm: FrozenLLM) -> None:
    turns = [Turn(("", ""), (torch.zeros(2030, llm.hidden_size),))]
    with pytest.raises(ConversationLengthError, match=r"has 20\d\d tokens.*start a new"):
        reply_to(llm, "", turns, SETTINGS)
