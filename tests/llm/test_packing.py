"""Packing: many examples in one row, the same numbers as each alone."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM, load_llm
from rellm_cache.llm.packing import IGNORED, Segment, pack


@pytest.fixture(scope="module")
def llm(llm_folder: Path) -> FrozenLLM:
    return load_llm(LLMConfig(str(llm_folder), quantization="none"), torch.device("cpu"))


def unlabelled(embeddings: torch.Tensor, parent: int | None = None) -> Segment:
    return Segment(embeddings, torch.full((len(embeddings),), IGNORED), parent)


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


def test_previous_and_positions_follow_the_tree() -> None:
    row = pack(
        [
            Segment(torch.zeros(2, 1), torch.tensor([IGNORED, IGNORED])),
            Segment(torch.zeros(2, 1), torch.tensor([IGNORED, 7]), parent=0),
            Segment(torch.zeros(1, 1), torch.tensor([8]), parent=0),
        ]
    )
    assert row.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert row.previous.tolist() == [-1, 0, 1, 2, 1]
    assert row.segments.tolist() == [0, 0, 1, 1, 2]
    assert row.labels.tolist() == [IGNORED, IGNORED, IGNORED, 7, 8]
    assert row.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
