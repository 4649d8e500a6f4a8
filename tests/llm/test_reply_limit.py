"""Where replies end: sentences counted, questions found, generation ended early."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import LimitReached, continue_prompts
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.reply_limit import ReplyLimit

REPLY = "I am so sorry. That sounds hard! How are you now? I am here. Take care."


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (ReplyLimit(), REPLY),
        (ReplyLimit(sentences=1), "I am so sorry."),
        (ReplyLimit(sentences=2), "I am so sorry. That sounds hard!"),
        (ReplyLimit(sentences=5), REPLY),
        (ReplyLimit(sentences=9), REPLY),
        (ReplyLimit(after_question=True), "I am so sorry. That sounds hard! How are you now?"),
        (ReplyLimit(1, after_question=True), "I am so sorry."),
        (ReplyLimit(4, after_question=True), "I am so sorry. That sounds hard! How are you now?"),
    ],
)
def test_a_reply_is_cut_after_its_limit(limit: ReplyLimit, kept: str) -> None:
    assert limit.cut(REPLY) == kept
    assert limit.cut(kept) == kept


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith, i.e. J. Smith, knows.",
        "It costs 3.50 or more.",
        'He said "why?!"',
        "Well...",
        "1. Breathe in slowly.",
        "So I did.",
        "It was in 2020.",
    ],
)
def test_what_is_one_sentence(sentence: str) -> None:
    assert ReplyLimit(sentences=1).cut(f"{sentence} Then another.") == sentence


def test_a_text_without_sentences_is_left_alone() -> None:
    for text in ("", "   ", "no end", "One.", "One. "):
        assert ReplyLimit(1, after_question=True).cut(text) == text


@pytest.fixture
def parrot(llm_folder: Path) -> FrozenLLM:
    """An LLM that says "No? No? No? " for ever: each token leads to the one after it."""
    llm = load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))
    ids = llm.chat.tokenizer("No? ")["input_ids"]
    model = llm.model
    head = torch.zeros_like(llm.output_weight)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for token, following in zip(ids, [*ids[1:], ids[0]], strict=True):
            head[following] = torch.nn.functional.normalize(llm.embed([token])[0], dim=0)
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    return llm


def test_generation_ends_when_every_row_is_past_its_limit(parrot: FrozenLLM) -> None:
    prompts = [parrot.embed(parrot.chat.ids(text)) for text in (" ", "No")]
    free = continue_prompts(parrot, prompts, 16)
    assert [r.text for r in free] == ["No? No? No? No?", "? No? No? No? No"]
    assert all(r.early_stop for r in free)
    steps: list[int] = []
    parrot.model.model.register_forward_hook(lambda *_: steps.append(1))
    limited = continue_prompts(parrot, prompts, 60, limit=ReplyLimit(sentences=2))
    assert len(steps) == 9  # "No? No? N", one beyond the limit
    assert [r.text for r in limited] == ["No? No?", "? No?"]
    assert not any(r.early_stop for r in limited)


def test_a_reply_that_the_token_limit_cuts_before_its_limit_says_so(parrot: FrozenLLM) -> None:
    prompt = [parrot.embed(parrot.chat.ids(" "))]
    (reply,) = continue_prompts(parrot, prompt, 6, limit=ReplyLimit(sentences=2))
    assert (reply.text, reply.early_stop) == ("No? No", True)


def test_rows_are_judged_one_by_one(parrot: FrozenLLM) -> None:
    tokenizer = parrot.chat.tokenizer
    rows = torch.tensor([tokenizer("Why? Oh")["input_ids"], tokenizer("Why. Oh")["input_ids"]])
    reached = LimitReached(ReplyLimit(after_question=True), tokenizer)
    assert reached(rows, None).tolist() == [True, False]
