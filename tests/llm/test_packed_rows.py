"""Packed rows: the same results as one row per example."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import Segment, pack


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def unlabeled(embeddings: torch.Tensor, parent: int | None = None) -> Segment:
    return Segment(embeddings, parent=parent)


def test_examples_behind_one_prompt_give_the_results_of_single_rows(llm: FrozenLLM) -> None:
    prompt = torch.randn(5, llm.hidden_size)
    examples = [torch.randn(n, llm.hidden_size) for n in (3, 7, 1)]
    row = pack([unlabeled(prompt), *(unlabeled(e, parent=0) for e in examples)])
    packed = llm.hidden_states(row).split([5, 3, 7, 1])[1:]
    for example, hidden in zip(examples, packed, strict=True):
        alone = llm.hidden_states(pack([unlabeled(torch.cat([prompt, example]))]))[5:]
        torch.testing.assert_close(hidden, alone, rtol=1e-4, atol=1e-5)


def test_several_labels_continue_one_speech(llm: FrozenLLM) -> None:
    pieces = [torch.randn(n, llm.hidden_size) for n in (4, 6, 2, 3)]
    prompt, speech, first, second = pieces
    row = pack([unlabeled(prompt), unlabeled(speech, 0), unlabeled(first, 1), unlabeled(second, 1)])
    hidden = llm.hidden_states(row)
    alone = llm.hidden_states(pack([unlabeled(torch.cat([prompt, speech, second]))]))
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


def test_the_bias_equals_the_mask_and_its_lines_are_aligned() -> None:
    row = pack([unlabeled(torch.zeros(n, 1), parent) for n, parent in ((5, None), (6, 0), (2, 0))])
    bias = row.bias(torch.bfloat16)
    assert bias.dtype == torch.bfloat16
    assert torch.equal(bias == 0, row.mask())
    assert torch.equal(bias == -torch.inf, ~row.mask())
    assert bias.stride()[2:] == (16, 1)


def test_the_block_mask_equals_the_mask() -> None:
    torch.manual_seed(0)
    pieces = [torch.randn(n, 4) for n in (70, 130, 1, 64)]
    parents = [None, 0, 0, 2]
    row = pack([unlabeled(e, p) for e, p in zip(pieces, parents, strict=True)])
    blocks = row.block_mask()
    assert torch.equal(create_mask(blocks.mask_mod, None, None, 265, 265, "cpu"), row.mask())
    seen = torch.nn.functional.pad(row.mask()[0, 0], (0, 119, 0, 119)).view(3, 128, 3, 128)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), seen.any(3).any(1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_flex_attention_gives_the_same_results(llm: FrozenLLM, llm_folder: Path) -> None:
    flexible = load_llm(
        LLMConfig(str(llm_folder), quantization="none", attention="flex"), torch.device("cpu")
    )
    pieces = [torch.randn(n, llm.hidden_size) for n in (5, 3, 140)]
    row = pack([unlabeled(pieces[0]), *(unlabeled(p, parent=0) for p in pieces[1:])])
    # On a CPU the kernel has no backward pass, and compiling it takes too long for a test.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found = flexible.hidden_states(row)
    torch.testing.assert_close(found, llm.hidden_states(row), rtol=1e-4, atol=1e-5)
    assert continue_prompts(flexible, [pieces[0]], 3) == continue_prompts(llm, [pieces[0]], 3)
