"""Loss terms by name: summed losses and the counts that they are divided by.

A loss is a sum divided by its count over the whole optimizer step, so the cut into micro-batches
changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """A loss as scalars float32: its sum, differentiable, and the count it is divided by."""

    sum: Tensor
    count: Tensor


class LossTerms(dict[str, LossTerm]):
    """Loss terms by name, in the order of the registry."""

    @classmethod
    def zeros(cls, names: Iterable[str], device: torch.device) -> "LossTerms":
        """Terms of no batch."""
        return cls({n: LossTerm(*torch.zeros(2, device=device).unbind()) for n in names})

    @classmethod
    def of(cls, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> "LossTerms":
        """Terms of sums and counts, both by name."""
        return cls({name: LossTerm(sums[name], count) for name, count in counts.items()})

    def __add__(self, other: "LossTerms") -> "LossTerms":
        """Terms over the batches of both, which must have the same names."""
        pairs = ((name, term, other[name]) for name, term in self.items())
        return LossTerms({n: LossTerm(a.sum + b.sum, a.count + b.count) for n, a, b in pairs})

    @property
    def sums(self) -> dict[str, Tensor]:
        """Sum of each term."""
        return {name: term.sum for name, term in self.items()}

    @property
    def counts(self) -> dict[str, Tensor]:
        """Count of each term."""
        return {name: term.count for name, term in self.items()}

    def total(
        self, weights: Mapping[str, float], counts: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Weighted sum of the means, scalar; `counts`, if given, are those of the whole step."""
        counts = counts or self.counts
        means = [
            weights[name] * term.sum / (counts[name] + (counts[name] == 0))
            for name, term in self.items()
        ]
        return sum(means[1:], means[0])

    def with_mean(self, name: str, mean: Tensor) -> "LossTerms":
        """The same terms, except for one with the given mean."""
        count = self[name].count
        return LossTerms({**self, name: LossTerm(count * mean, count)})

    def means(self) -> dict[str, float]:
        """Mean of each term with a count."""
        pairs = ((name, term.sum.item(), term.count.item()) for name, term in self.items())
        return {name: total / count for name, total, count in pairs if count}
