"""Prompts: the paper's ChatML to the letter, models' own templates, pieces around the speech."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rellm_cache.config.schema import PromptsConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.prompts import ChatFormat

QWEN3_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(llm_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(llm_folder)


def test_chatml_is_the_papers(tokenizer: Any) -> None:
    prompts = PromptsConfig()
    chat = ChatFormat(tokenizer, "chatml")
    pieces = chat.speech_prompt(prompts.empathetic_system, prompts.alignment)
    assert tokenizer.decode(pieces.before) == (
        "<|im_start|>system\nYou are a helpful assistant. Your response should fulfill requests "
        "with empathy toward user's emotion tone.<|im_end|>\n<|im_start|>user\nContinue the "
        "following sentence based on the conveyed emotion tone in a coherent style: "
    )
    assert tokenizer.decode(pieces.after) == "<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(pieces.end) == "<|im_end|>\n<|endoftext|>"


def test_pieces_join_to_the_whole_request(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, "chatml")
    pieces = chat.speech_prompt("Be kind.", "Say: {speech} now")
    whole = chat.text_prompt("Be kind.", "Say: hello now")
    assert pieces.before + chat.ids("hello") + pieces.after == whole


def test_a_models_own_template(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, "model")
    pieces = chat.speech_prompt("Be kind.", "{speech}")
    assert tokenizer.decode(pieces.before) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    )
    assert tokenizer.decode(pieces.end) == "<|im_end|>\n"


def test_qwen3_answers_without_thinking(llm_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llm_folder)
    tokenizer.chat_template = QWEN3_TEMPLATE
    pieces = ChatFormat(tokenizer, "model").speech_prompt("Be kind.", "{speech}")
    assert tokenizer.decode(pieces.after).endswith("assistant\n<think>\n\n</think>\n\n")


def test_generation_stops_at_every_end(tokenizer: Any) -> None:
    stops = tokenizer.convert_ids_to_tokens(ChatFormat(tokenizer, "chatml").stop_ids)
    assert set(stops) == {"<|im_end|>", "<|endoftext|>"}


def test_chatml_needs_its_special_tokens(llm_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llm_folder)

    class Plain:
        chat_template = None
        eos_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": tokenizer(" ".join(text))["input_ids"]}

    with pytest.raises(ConfigError, match=r"splits '<\|im_start\|>' into \d+ pieces.*\"model\""):
        ChatFormat(Plain(), "chatml")
    with pytest.raises(ConfigError, match="no chat template"):
        ChatFormat(Plain(), "model")


def test_a_template_that_drops_the_system_text_is_refused(llm_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llm_folder)
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ConfigError, match="leaves out the system or user text"):
        ChatFormat(tokenizer, "model").speech_prompt("Be kind.", "{speech}")
