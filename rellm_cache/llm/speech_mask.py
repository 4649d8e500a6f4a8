"""Speech mask: makes layers of a decoder compute at speech positions only.

The mask of a forward call reaches each layer as an argument of that call. So a layer that runs
again in the backward pass (activation checkpointing) gets the mask of its own row.

Letters: B rows, T tokens in each, S speech tokens of all rows, D a layer's width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

ARGUMENT = "speech_positions"  # argument of the decoder's layers


@dataclass(frozen=True)
class _Positions:
    """Indices (S,) of speech tokens in the flattened rows of one call, and its shape (B, T)."""

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
    """The speech positions of an LLM's forward calls."""

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._current: _Positions | None = None

    @contextmanager
    def set(self, mask: Tensor) -> Iterator[None]:
        """Set the speech positions of calls in the block: `mask` (B, T) bool, true at speech.

        In generation, the mask covers the prompt. A call with P cached tokens uses the mask from
        index P on. Positions after the end of the mask are not speech.
        """
        before, self._mask = self._mask, mask
        try:
            yield
        finally:
            self._mask = before

    def attach(self, decoder: nn.Module) -> None:
        """Pass the positions of each call of a decoder to the attention of its layers."""
        decoder.register_forward_pre_hook(self._enter, with_kwargs=True)
        for layer in decoder.get_submodule("layers").children():
            # Not a hook of the layer: checkpointing runs again what is inside the layer.
            attention = layer.get_submodule("self_attn")
            attention.register_forward_pre_hook(self._enter_layer, with_kwargs=True)

    def restrict(self, first: nn.Module, last: nn.Module) -> None:
        """Make the modules from `first` to `last` compute speech tokens only.

        They must run one after another in a layer of an attached decoder. The output of `last` is
        zero for all other tokens.
        """
        first.register_forward_pre_hook(lambda _, inputs: self._positions.take(inputs[0]))
        last.register_forward_hook(lambda _, inputs, output: self._positions.put(output))

    @property
    def _positions(self) -> _Positions:
        if self._current is None:
            raise RuntimeError("a restricted module ran outside an attached decoder")
        return self._current

    def _enter(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._mask is None:
            raise RuntimeError(
                "the LLM ran outside SpeechMask.set, so its speech positions are unknown"
            )
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
