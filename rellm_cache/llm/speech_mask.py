"""Where speech is. In: a mask of a forward call. Out: layers that compute at speech positions only.

The mask of a call reaches each decoder layer as an argument of that very call. A layer that is run
again in the backward pass, by activation checkpointing, so finds the positions of its own row and
not of the one that came last.

Letters: B rows, T tokens in each, S speech tokens of all rows, D a layer's width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

ARGUMENT = "speech_positions"  # by which a decoder hands them to its layers


@dataclass(frozen=True)
class _Positions:
    """Of the speech in one forward call.

    Attributes:
        index: (S,) int64 into the call's tokens, rows end to end.
        shape: (B, T) of the call.
    """

    index: Tensor
    shape: tuple[int, int]

    def take(self, values: Tensor) -> Tensor:
        """(B, T, D) -> (S, D)."""
        return values.flatten(0, 1)[self.index]

    def put(self, values: Tensor) -> Tensor:
        """(S, D) -> (B, T, D), zeros elsewhere."""
        whole = values.new_zeros(self.shape[0] * self.shape[1], values.shape[-1])
        return whole.index_copy(0, self.index, values).view(*self.shape, -1)


class SpeechMask:
    """The speech positions of the forward calls that an LLM is making."""

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._current: _Positions | None = None

    @contextmanager
    def set(self, mask: Tensor) -> Iterator[None]:
        """Forward calls inside have speech where `mask` (B, T), bool, is true.

        In generation T is the prompt's: a call that continues past keys and values begins in the
        mask where those end, and nothing beyond the mask is speech.
        """
        before, self._mask = self._mask, mask
        try:
            yield
        finally:
            self._mask = before

    def attach(self, decoder: nn.Module) -> None:
        """Hand the positions of each call of a decoder to its layers' attention, and take them."""
        decoder.register_forward_pre_hook(self._enter, with_kwargs=True)
        for layer in decoder.get_submodule("layers").children():
            # Not of the layer: what a checkpoint runs again is inside the layer.
            attention = layer.get_submodule("self_attn")
            attention.register_forward_pre_hook(self._enter_layer, with_kwargs=True)

    def restrict(self, first: nn.Module, last: nn.Module) -> None:
        """Make all from `first` to `last`, two modules of a followed decoder's layers that run one
        after another, see speech tokens only; what `last` gives is zero for all others."""
        first.register_forward_pre_hook(lambda _, inputs: self._here.take(inputs[0]))
        last.register_forward_hook(lambda _, inputs, output: self._here.put(output))

    @property
    def _here(self) -> _Positions:
        if self._current is None:
            raise RuntimeError("a confined layer ran outside a decoder that is followed")
        return self._current

    def _enter(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._mask is None:
            raise RuntimeError("the LLM ran outside SpeechMask.set: where speech is, is not known")
        tokens = kwargs.get("inputs_embeds")
        tokens = kwargs["input_ids"] if tokens is None else tokens  # (B, T, …)
        batch, length = tokens.shape[:2]
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        rows, columns = self._mask[:, start : start + length].nonzero(as_tuple=True)  # (S,), (S,)
        positions = _Positions((rows * length + columns).to(tokens.device), (batch, length))
        return args, {**kwargs, ARGUMENT: positions}

    def _enter_layer(
        self, _: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        self._current = kwargs[ARGUMENT]
        return args, {k: v for k, v in kwargs.items() if k != ARGUMENT}
