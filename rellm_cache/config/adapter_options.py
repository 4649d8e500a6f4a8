"""Adapter options: the table `[adapter.options]` of each adapter of ours but `conv`.

They are apart from the adapters so that reading a recipe imports no torch.
"""

from dataclasses import dataclass

from rellm_cache.config.constraints import DropoutRate


@dataclass(frozen=True)
class StatisticsOptions:
    """Options of the adapter `statistics`."""

    channel_dropout: DropoutRate = 0.0
    """Share of the statistics that are set to zero for an utterance, in training only."""
