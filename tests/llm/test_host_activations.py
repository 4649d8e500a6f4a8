"""Activations on the host: the same gradients, and only layer inputs are moved."""

from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.host_activations import HostActivations, Kept
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.packed_rows import Segment, pack

CPU = torch.device("cpu")


def load(folder: Path, **options: bool) -> FrozenLLM:
    return load_llm(LLMConfig(str(folder), quantization="none", **options), CPU)


def gradient(llm: FrozenLLM, rows: int = 1) -> torch.Tensor:
    """Gradient through rows behind a prompt whose keys and values are kept."""
    torch.manual_seed(5)
    leaf = torch.randn(9, llm.hidden_size).requires_grad_()
    prefix = llm.prefix_segment(llm.chat.ids("You listen."))
    total = torch.zeros(())
    for index in range(rows):
        row = pack([prefix, Segment(leaf * (index + 1), parent=0)])
        total = total + llm.hidden_states(row).sin().sum()
    total.backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("rows", [1, 3])
def test_checkpointed_and_offloaded_rows_have_the_same_gradients(
    llm_folder: Path, rows: int
) -> None:
    plain = load(llm_folder)
    checkpointed = load(llm_folder, activation_checkpointing=True)
    offloaded = load(llm_folder, activation_checkpointing=True, offload_activations=True)
    expected = gradient(plain, rows)
    assert checkpointed._prefixes == {}
    for llm in (checkpointed, offloaded):
        torch.testing.assert_close(gradient(llm, rows), expected)
        assert len(llm._prefixes) == 1  # the prompt ran once, and is not in the row
        torch.testing.assert_close(gradient(llm, rows), expected)


def test_inputs_of_layers_are_what_moves(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[int, ...]] = []
    keep = HostActivations.keep

    def keep_and_note(self: HostActivations, tensor: torch.Tensor) -> Kept | torch.Tensor:
        kept = keep(self, tensor)
        if isinstance(kept, Kept):
            moved.append(tuple(tensor.shape))
            assert kept.host.data_ptr() != tensor.data_ptr()
        return kept

    monkeypatch.setattr(HostActivations, "keep", keep_and_note)
    llm = load(llm_folder, activation_checkpointing=True, offload_activations=True)
    gradient(llm)
    assert moved == [(1, 9, llm.hidden_size)] * llm.model.config.num_hidden_layers


def test_the_one_before_is_fetched_ahead() -> None:
    keeper = HostActivations()
    tensors = [torch.full((1, 2, 3), float(i), requires_grad=True) for i in range(3)]
    kept = [keeper.keep(tensor) for tensor in tensors]
    assert all(isinstance(one, Kept) for one in kept)
    given = keeper.give_back(kept[2])
    assert torch.equal(given, tensors[2])
    assert kept[1].fetched is not None  # type: ignore[union-attr]
    assert kept[0].fetched is None  # type: ignore[union-attr]
    assert torch.equal(keeper.give_back(kept[1]), tensors[1])
    assert torch.equal(keeper.give_back(kept[0]), tensors[0])
    assert keeper.keep(torch.zeros(1, 2, 3)) is not None
    small = torch.zeros(3, requires_grad=True)
    assert keeper.keep(small) is small


def test_it_needs_checkpointing(llm_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"llm\.offload_activations = true: it moves what"):
        LLMConfig(str(llm_folder), offload_activations=True)
