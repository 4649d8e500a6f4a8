"""CCC prepass: moments of all predicted dimensions of a step, before its backward passes.

The CCC loss of a step with several micro-batches depends on all of them, so the adapter and the
heads run twice: first without gradients, for the moments over all micro-batches and processes, then
with gradients. Both passes use the same random states, and so the same dropout and crops.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.model.losses.dimensions import MOMENTS
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.utils.devices import random_state, set_random_state


@dataclass(frozen=True)
class Prepass:
    """Result of the prepass over one step.

    Attributes:
        moments: (6, 3) sums over all micro-batches of all processes; None if not needed.
        random_states: state before each micro-batch; empty to draw new numbers in the second pass.
    """

    moments: Tensor | None = None
    random_states: tuple[Mapping[str, Tensor], ...] = ()

    def restore_random_state(self, index: int, device: torch.device) -> None:
        """Set the random state that a micro-batch had in the prepass."""
        if self.random_states:
            set_random_state(self.random_states[index], device)


def ccc_prepass(
    model: SpeechLLM,
    batches: Sequence[Batch],
    accelerator: Accelerator,
    autocast: AbstractContextManager[None],
) -> Prepass:
    """Compute the moments of a step; all processes must call it together.

    Nothing is computed for a squared-error loss, or if the step is one micro-batch in one process.
    """
    if not model.needs_moments or (accelerator.num_processes == 1 and len(batches) == 1):
        return Prepass()
    device = accelerator.device
    moments = torch.zeros(MOMENTS, 3, dtype=torch.float64, device=device)
    states = []
    for batch in batches:
        states.append(random_state(device))
        with autocast:
            moments += model.dimension_moments(batch)
    return Prepass(accelerator.reduce(moments, "sum"), tuple(states))
