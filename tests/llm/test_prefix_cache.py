"""Prefix cache: cached prompts give the results of prompts in the row."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import PackedRow, Segment, pack


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def unlabeled(embeddings: torch.Tensor, parent: int | None = None) -> Segment:
    return Segment(embeddings, parent=parent)


def behind(values: torch.Tensor, prompts: list[Segment]) -> PackedRow:
    """Nine tokens in three segments behind two prompts."""
    return pack(
        [
            *prompts,
            unlabeled(values[:4], parent=0),
            unlabeled(values[4:7], parent=1),
            unlabeled(values[7:], parent=0),
        ]
    )


def test_a_cached_prefix_gives_what_the_prompt_in_the_row_gives(llm: FrozenLLM) -> None:
    first, second = [5, 6, 7, 8], [9, 10, 11]
    values = torch.randn(9, llm.hidden_size, requires_grad=True)
    row = behind(values, [llm.prefix_segment(first), llm.prefix_segment(second)])
    whole = behind(values, [llm.segment(ids=first), llm.segment(ids=second)])
    assert len(row.segments) == 9
    assert len(whole.segments) == 9 + len(first) + len(second)
    assert torch.equal(row.positions[0], whole.positions[0, -9:])
    assert row.reach == whole.reach
    hidden, expected = llm.hidden_states(row), llm.hidden_states(whole)[-9:]
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(hidden.square().sum(), values)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), values)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_flex_attention_sees_a_cached_prefix(llm: FrozenLLM, llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", attention="flex")
    flexible = load_llm(config, torch.device("cpu"))
    values = torch.randn(9, llm.hidden_size)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found, expected = (
            each.hidden_states(
                behind(values, [each.prefix_segment([5, 6, 7]), each.prefix_segment([8])])
            )
            for each in (flexible, llm)
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_prefix_is_computed_once_and_can_be_trained_behind(llm: FrozenLLM) -> None:
    with torch.inference_mode():
        known = llm.prefix_segment([3, 4]).prefix
    assert known is not None
    assert llm.prefix_segment([3, 4]).prefix is known
    speech = torch.randn(2, llm.hidden_size, requires_grad=True)
    row = pack([llm.prefix_segment([3, 4]), unlabeled(speech, parent=0)])
    llm.hidden_states(row).sum().backward()
    assert speech.grad is not None


def test_a_prompt_that_cannot_be_cached_is_in_the_row(llm_folder: Path) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", lora=LoraConfig(scope="all"))
    segment = load_llm(config, torch.device("cpu")).prefix_segment([3, 4])
    assert segment.prefix is None
    assert len(segment.embeddings) == 2


def test_tokens_see_the_cached_prefix_that_they_continue(llm: FrozenLLM) -> None:
    one, other = llm.prefix_segment([1, 2]), llm.prefix_segment([3, 4, 5])
    row = pack(
        [one, other, *(unlabeled(torch.zeros(n, llm.hidden_size), p) for n, p in ((2, 1), (1, 0)))]
    )
    assert row.mask()[0, 0].int().tolist() == [
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 1],
    ]
    assert row.positions.tolist() == [[3, 4, 2]]
