"""A step before the step. In: its micro-batches. Out: moments of all it will predict, for CCC.

A step of several micro-batches runs adapter and heads twice where the loss is CCC: once without
gradients for the moments of the whole step, over all processes, then in earnest. Random states are
kept, so that both draw the same dropout and crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.model.losses.ccc import MOMENTS
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.precision import of_steps


@dataclass(frozen=True)
class Rehearsal:
    """What a step predicts of dimensions.

    Attributes:
        moments: (6, 3) of all micro-batches of all processes; None where the step needs none.
        states: random states of CPU and GPU before each micro-batch of this process; empty where
            they are not to be drawn from again.
    """

    moments: Tensor | None = None
    states: tuple[tuple[Tensor, Tensor | None], ...] = ()

    def replay(self, index: int) -> None:
        """Set the random state that a micro-batch was rehearsed with."""
        if not self.states:
            return
        cpu, gpu = self.states[index]
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)


def rehearse(model: SpeechLLM, batches: Sequence[Batch], accelerator: Accelerator) -> Rehearsal:
    """Gather the moments of a step; all processes must call it together.

    A step that is one micro-batch of one process knows its own, and a squared error needs none.
    """
    losses = model.recipe.losses
    needed = losses.dimension and losses.dimension_kind == "ccc" and model.recipe.heads.dimensions
    if not needed or (accelerator.num_processes == 1 and len(batches) == 1):
        return Rehearsal()
    device = accelerator.device
    moments = torch.zeros(MOMENTS, 3, dtype=torch.float64, device=device)
    states = []
    for batch in batches:
        gpu = torch.cuda.get_rng_state() if device.type == "cuda" else None
        states.append((torch.get_rng_state(), gpu))
        with of_steps(model.recipe.training, device):
            moments += model.dimension_moments(batch)
    return Rehearsal(accelerator.reduce(moments, "sum"), tuple(states))
