"""Segment attention: the same result as attention over the whole row."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import PackedRow, Segment, pack
from rellm_cache.llm.segment_attention import ARGUMENT, attend, segments_of


def load(folder: Path, attention: Any) -> FrozenLLM:
    config = LLMConfig(str(folder), quantization="none", attention=attention)
    return load_llm(config, torch.device("cpu"))


def tree(llm: FrozenLLM, values: torch.Tensor) -> PackedRow:
    """Behind two cached prefixes and one in the row: examples, and questions about a speech."""
    return pack(
        [
            llm.prefix_segment([5, 6, 7]),
            llm.prefix_segment([8]),
            Segment(values[:4]),
            Segment(values[4:9], answer=(3, 4), parent=0),
            Segment(values[9:10], answer=(2,), parent=2),
            Segment(values[10:16], parent=1, speech=6),
            Segment(values[16:18], answer=(5, 6, 7), parent=5),
            Segment(values[18:18], answer=(9,), parent=5),
        ]
    )


def test_a_tree_of_segments_equals_whole_row_attention(llm_folder: Path) -> None:
    found = []
    for attention in ("segments", "sdpa"):
        llm = load(llm_folder, attention)
        torch.manual_seed(0)
        values = torch.randn(18, llm.hidden_size, requires_grad=True)
        hidden = llm.hidden_states(tree(llm, values))
        hidden.sin().sum().backward()
        found.append((hidden.detach(), values.grad))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_pieces_and_attention_between_them(llm_folder: Path) -> None:
    llm = load(llm_folder, "segments")
    row = segments_of(tree(llm, torch.randn(18, llm.hidden_size)), torch.float32)
    assert row.lengths == (3, 1, 4, 5, 1, 6, 2)  # cached prefixes first, empty segments nowhere
    assert row.prefixes == 2
    assert row.seen == ((2,), (0, 3), (2, 4), (1, 5), (1, 5, 6))
    assert [tuple(bias.shape) for bias in row.biases] == [
        (1, 1, 4, 4),
        (1, 1, 5, 8),
        (1, 1, 1, 5),
        (1, 1, 6, 7),
        (1, 1, 2, 9),
    ]
    assert torch.equal(row.biases[1][0, 0] == 0, torch.ones(5, 8).tril(3).bool())


def test_calls_without_a_packed_row_are_unchanged(llm_folder: Path) -> None:
    """Padded rows with a mask, right after a packed row."""
    llm = load(llm_folder, "segments")
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        llm.model.set_attn_implementation("sdpa")
        expected = llm.model(input_ids=ids, attention_mask=mask).logits
        llm.hidden_states(tree(llm, torch.randn(18, llm.hidden_size)))
        found = llm.model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(found[mask.bool()], expected[mask.bool()])


def test_unsupported_attention_options_are_refused(llm_folder: Path) -> None:
    llm = load(llm_folder, "segments")
    row = segments_of(tree(llm, torch.randn(18, llm.hidden_size)), torch.float32)
    values = torch.zeros(1, 1, 22, 4)
    with pytest.raises(ConfigError, match="attention has 'softcap'"):
        attend(llm.model, values, values, values, None, softcap=30.0, **{ARGUMENT: row})


@pytest.mark.parametrize(
    ("asked", "device", "kernel"),
    [
        ("auto", "cpu", "segments"),
        ("auto", "cuda", "sdpa"),
        ("sdpa", "cpu", "sdpa"),
        ("flex", "cuda", "flex"),
    ],
)
def test_the_kernel_depends_on_config_and_device(asked: Any, device: str, kernel: str) -> None:
    assert LLMConfig("any", attention=asked).attention_on(device) == kernel
