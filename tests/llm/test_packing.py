"""Packing: many examples in one row, the same numbers as each alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from rellm_cache.config.schema import LLMConfig, LoraConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import continue_prompts
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packing import PackedRow, Segment, pack


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def unlabelled(embeddings: torch.Tensor, parent: int | None = None) -> Segment:
    return Segment(embeddings, parent=parent)


def test_examples_behind_one_prompt_are_as_each_alone(llm: FrozenLLM) -> None:
    prompt = torch.randn(5, llm.hidden_size)
    examples = [torch.randn(n, llm.hidden_size) for n in (3, 7, 1)]
    row = pack([unlabelled(prompt), *(unlabelled(e, parent=0) for e in examples)])
    packed = llm.hidden_states(row).split([5, 3, 7, 1])[1:]
    for example, hidden in zip(examples, packed, strict=True):
        alone = llm.hidden_states(pack([unlabelled(torch.cat([prompt, example]))]))[5:]
        torch.testing.assert_close(hidden, alone, rtol=1e-4, atol=1e-5)


def test_labels_may_branch_from_one_speech(llm: FrozenLLM) -> None:
    pieces = [torch.randn(n, llm.hidden_size) for n in (4, 6, 2, 3)]
    prompt, speech, first, second = pieces
    row = pack(
        [unlabelled(prompt), unlabelled(speech, 0), unlabelled(first, 1), unlabelled(second, 1)]
    )
    hidden = llm.hidden_states(row)
    alone = llm.hidden_states(pack([unlabelled(torch.cat([prompt, speech, second]))]))
    torch.testing.assert_close(hidden[12:], alone[10:], rtol=1e-4, atol=1e-5)


def test_predictors_and_positions_follow_the_tree() -> None:
    row = pack(
        [
            Segment(torch.zeros(2, 1)),
            Segment(torch.zeros(2, 1), answer=(7, 6), parent=0, speech=1),
            Segment(torch.zeros(1, 1), answer=(8, 9), parent=0),
            Segment(torch.zeros(0, 1), answer=(5,), parent=0),
        ]
    )
    assert row.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert row.reach == 4
    assert row.answers.tolist() == [7, 6, 8, 9, 5]
    assert row.predictors.tolist() == [2, 3, 1, 4, 1]
    assert row.answered.tolist() == [1, 1, 2, 2, 3]
    assert row.segments.tolist() == [0, 0, 1, 1, 2]
    assert row.speech.tolist() == [False, False, True, False, False]
    assert row.mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_the_bias_is_the_mask_and_its_lines_are_aligned() -> None:
    row = pack([unlabelled(torch.zeros(n, 1), parent) for n, parent in ((5, None), (6, 0), (2, 0))])
    bias = row.bias(torch.bfloat16)
    assert bias.dtype == torch.bfloat16
    assert torch.equal(bias == 0, row.mask())
    assert torch.equal(bias == -torch.inf, ~row.mask())
    assert bias.stride()[2:] == (16, 1)


def test_the_block_mask_is_the_mask() -> None:
    torch.manual_seed(0)
    pieces = [torch.randn(n, 4) for n in (70, 130, 1, 64)]
    parents = [None, 0, 0, 2]
    row = pack([unlabelled(e, p) for e, p in zip(pieces, parents, strict=True)])
    blocks = row.block_mask()
    assert torch.equal(create_mask(blocks.mask_mod, None, None, 265, 265, "cpu"), row.mask())
    seen = torch.nn.functional.pad(row.mask()[0, 0], (0, 119, 0, 119)).view(3, 128, 3, 128)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), seen.any(3).any(1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_flex_attention_gives_the_same_numbers(llm: FrozenLLM, llm_folder: Path) -> None:
    flexible = load_llm(
        LLMConfig(str(llm_folder), quantization="none", attention="flex"), torch.device("cpu")
    )
    pieces = [torch.randn(n, llm.hidden_size) for n in (5, 3, 140)]
    row = pack([unlabelled(pieces[0]), *(unlabelled(p, parent=0) for p in pieces[1:])])
    # On a CPU the kernel has no backward pass, and compiling it would take longer than all tests.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found = flexible.hidden_states(row)
    torch.testing.assert_close(found, llm.hidden_states(row), rtol=1e-4, atol=1e-5)
    assert continue_prompts(flexible, [pieces[0]], 3) == continue_prompts(llm, [pieces[0]], 3)


def behind(values: torch.Tensor, prompts: list[Segment]) -> PackedRow:
    """Nine tokens in three segments behind two prompts."""
    return pack(
        [
            *prompts,
            unlabelled(values[:4], parent=0),
            unlabelled(values[4:7], parent=1),
            unlabelled(values[7:], parent=0),
        ]
    )


def test_a_cached_prefix_gives_what_the_prompt_in_the_row_gives(llm: FrozenLLM) -> None:
    """Hidden states, gradients and positions; and it has no place in the row."""
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
    """What was first seen in evaluation takes part in a step."""
    with torch.inference_mode():
        known = llm.prefix_segment([3, 4]).prefix
    assert known is not None
    assert llm.prefix_segment([3, 4]).prefix is known
    speech = torch.randn(2, llm.hidden_size, requires_grad=True)
    row = pack([llm.prefix_segment([3, 4]), unlabelled(speech, parent=0)])
    llm.hidden_states(row).sum().backward()
    assert speech.grad is not None


@pytest.mark.parametrize(
    "change", [{"activation_checkpointing": True}, {"lora": LoraConfig(scope="all")}]
)
def test_a_prompt_that_cannot_be_cached_is_in_the_row(
    llm_folder: Path, change: dict[str, Any]
) -> None:
    config = LLMConfig(str(llm_folder), quantization="none", **change)
    segment = load_llm(config, torch.device("cpu")).prefix_segment([3, 4])
    assert segment.prefix is None
    assert len(segment.embeddings) == 2


def test_tokens_see_the_cached_prefix_that_they_continue(llm: FrozenLLM) -> None:
    one, other = llm.prefix_segment([1, 2]), llm.prefix_segment([3, 4, 5])
    row = pack(
        [one, other, *(unlabelled(torch.zeros(n, llm.hidden_size), p) for n, p in ((2, 1), (1, 0)))]
    )
    assert row.mask()[0, 0].int().tolist() == [
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 1],
    ]
    assert row.positions.tolist() == [[3, 4, 2]]
