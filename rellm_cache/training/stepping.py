"""One optimiser step. In: micro-batches. Out: updated weights, loss terms, the gradient's norm.

Losses are divided by the counts of the whole step, over all micro-batches and processes; gradients
are summed. A step that finds no room is taken again with smaller micro-batches.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.errors import RunError
from rellm_cache.model.losses.terms import LossTerms
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.ccc_prepass import Rehearsal, rehearse
from rellm_cache.training.micro_batches import Budget, Meter
from rellm_cache.training.optim import Optimisation, flat_gradients, set_gradients
from rellm_cache.training.precision import of_steps
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import is_out_of_memory, random_state, set_random_state


@dataclass(frozen=True)
class Stepper:
    """Takes the steps of a run.

    Attributes:
        weights: of the loss terms.
    """

    model: SpeechLLM
    optimisation: Optimisation
    accelerator: Accelerator
    budget: Budget
    weights: Tensor

    def step(self, batches: Sequence[Batch], number: int) -> tuple[LossTerms, float]:
        """One optimiser step.

        Args:
            batches: this process's micro-batches, maybe none.
            number: of the step, from 0, which decides the learning rate.

        Returns:
            Loss sums and counts of all processes, and the norm of the gradient before clipping.

        Raises:
            RunError: the gradient is not finite, or one clip alone finds no room.
        """
        device = self.accelerator.device
        own = [batch.to(device) for batch in batches]
        counts = LossTerms.nothing(device).counts
        for batch in own:
            counts += self.model.counts(batch)
        counts = self.accelerator.reduce(counts, "sum")
        sums, cost, taken = self._sum_losses(own, counts)
        if self.accelerator.num_processes > 1:
            tensors = self.optimisation.tensors
            set_gradients(tensors, self.accelerator.reduce(flat_gradients(tensors), "sum"))
            sums = self.accelerator.reduce(sums, "sum")
        norm = self.optimisation.step(number)
        if self.budget.learning:
            self.budget.learn(cost, taken, device)
        return LossTerms(sums, counts), norm

    def _sum_losses(self, batches: Sequence[Batch], counts: Tensor) -> tuple[Tensor, int, int]:
        """Gradients of all micro-batches, in halves where they find no room.

        Returns:
            Loss sums, and of the largest micro-batch its cost and bytes.
        """
        device = self.accelerator.device
        begun = random_state(device)
        rehearsal: Rehearsal | None = None
        while True:
            try:
                if rehearsal is None:
                    rehearsal = rehearse(self.model, batches, self.accelerator)
                return self._attempt(batches, counts, rehearsal)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # The error is gone here, and with it the activations that its traceback held.
            self.optimisation.forget_gradients()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(begun, device)
            batches = self._halved(batches)
            if self.accelerator.num_processes == 1:
                rehearsal = None
            elif rehearsal is not None:  # others are past it: moments hold, dropout is drawn anew
                rehearsal = replace(rehearsal, states=())

    def _attempt(
        self, batches: Sequence[Batch], counts: Tensor, rehearsal: Rehearsal
    ) -> tuple[Tensor, int, int]:
        device = self.accelerator.device
        sums = torch.zeros_like(counts)
        arithmetic = of_steps(self.model.recipe.training, device)
        largest = taken = 0
        for index, batch in enumerate(batches):
            rehearsal.replay(index)
            meter = Meter(device, self.model.parameters()) if self.budget.learning else None
            with arithmetic, meter.forward() if meter else nullcontext():
                terms = self.model(batch, rehearsal.moments).terms
            terms.total(self.weights, counts).backward()
            sums += terms.sums.detach()
            cost = self.budget.cost(batch)
            if meter and cost > largest:
                largest, taken = cost, meter.taken()
        return sums, largest, taken

    def _halved(self, batches: Sequence[Batch]) -> list[Batch]:
        """Every micro-batch in two, and so from now on."""
        largest = max(batches, key=self.budget.cost)
        size = max(len(batch.ids) for batch in batches)
        if size == 1:
            raise RunError(
                f"{largest.ids[0]}: out of memory though trained alone; lower llm.row_tokens, "
                'quantize the LLM (llm.quantization = "nf4") or leave out clips as long as this'
            )
        self.budget.halve(self.budget.cost(largest))
        say(
            f"Out of memory with {size} clips at once: going on with half, the same step and "
            "result; a lower training.batch_size with more accumulation avoids the attempt"
        )
        halves = []
        for batch in batches:
            middle = (len(batch.ids) + 1) // 2
            parts = (slice(0, middle), slice(middle, len(batch.ids)))
            halves += [batch.part(clips) for clips in parts if clips.start < clips.stop]
        return halves
