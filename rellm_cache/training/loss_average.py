"""Loss average of an optimizer step: what the loss sums of each micro-batch are divided by.

`training.averaging = "step"` divides by the counts of the whole step. `"micro_batch"` takes the
mean of each draw of `batch_size` clips and then the mean of the draws, as the reference code does.
Neither depends on how memory cuts a step into micro-batches or on the number of processes.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.model.losses.loss_terms import LossTerms
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.distributed import sum_by_name

Counts = Mapping[str, Tensor]


class LossAverage:
    """Divisors of the loss sums of one step. All processes must make it together.

    Args:
        batches: micro-batches of this process; each holds clips of one draw.
        draws: the draws of this process as utterance ids; None averages over the step.

    Attributes:
        counts: count of each loss over the step, for metrics.
    """

    def __init__(
        self,
        model: SpeechLLM,
        batches: Iterable[Batch],
        accelerator: Accelerator,
        draws: Sequence[Sequence[str]] | None,
    ) -> None:
        self._draw_of = {name: k for k, draw in enumerate(draws or ()) for name in draw}
        zeros = LossTerms.zeros(model.losses, accelerator.device).counts
        own: dict[int, dict[str, Tensor]] = {}
        for batch in batches:
            draw = self._draw(batch)
            own[draw] = _add(own.get(draw, zeros), model.counts(batch))
        total = zeros
        for counts in own.values():
            total = _add(total, counts)
        self.counts = sum_by_name(accelerator, total)
        self._divisors: Mapping[int, Counts] | None = None
        if draws is not None:
            # The mean is over the draws that have the loss at all.
            present = zeros
            for counts in own.values():
                present = _add(present, {name: (n > 0).float() for name, n in counts.items()})
            present = sum_by_name(accelerator, present)
            self._divisors = {
                draw: {name: n * present[name] for name, n in counts.items()}
                for draw, counts in own.items()
            }

    def divisors(self, batch: Batch) -> Counts:
        """What the loss sums of a micro-batch are divided by."""
        return self.counts if self._divisors is None else self._divisors[self._draw(batch)]

    def weigh(self, batch: Batch, sums: Counts) -> Counts:
        """Sums of a micro-batch, scaled so that the step's sums over `counts` are its means."""
        if self._divisors is None:
            return sums
        divisors = self.divisors(batch)
        return {
            name: torch.where(divisors[name] > 0, value * self.counts[name] / divisors[name], 0.0)
            for name, value in sums.items()
        }

    def _draw(self, batch: Batch) -> int:
        return self._draw_of.get(batch.ids[0], 0)


def _add(one: Counts, other: Counts) -> dict[str, Tensor]:
    return {name: one[name] + value for name, value in other.items()}
