"""Training a scorer. In: readings with levels. Out: a trained scorer; logits of readings.

The same settings, readings and seed give the same scorer on one machine, also after a kill: a
state is written after each epoch, and each epoch draws its order and dropout from its own seed.
"""

import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rellm_cache.empathy.bi_encoder import EmpathyScorer, class_weights, scorer_loss
from rellm_cache.empathy.exchanges import Reading, collate_readings, shuffled_batches
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.tfidf import WordModel
from rellm_cache.errors import RunError

CLIP = 1.0
BATCH = 32  # readings scored at a time


@dataclass(frozen=True)
class EpochReport:
    """One epoch: its number from 1 and the mean training loss of its batches."""

    epoch: int
    loss: float


class ScorerTraining:
    """AdamW over the epochs of one scorer, resumable between them."""

    def __init__(
        self, scorer: EmpathyScorer, readings: Sequence[Reading], state: Path, device: torch.device
    ) -> None:
        settings = scorer.settings
        self.scorer = scorer
        self.readings = readings
        self.steps = math.ceil(len(readings) / settings.batch_size)
        self._state = state
        self._device = device
        self._weights = {
            name: class_weights([r.levels[name] for r in readings if name in r.levels],
                                settings.class_power).to(device)
            for name in scorer.mechanisms
        }  # fmt: skip
        self._optimiser = torch.optim.AdamW(_groups(scorer, settings))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, _warm_up_and_decay(settings, self.steps * settings.epochs)
        )
        self.done = 0

    def resume(self) -> None:
        """Go on from the state file, if there is one.

        Raises:
            RunError: it is not what this training wrote.
        """
        if not self._state.is_file():
            return
        try:
            state = torch.load(self._state, map_location=self._device, weights_only=True)
            self.scorer.load_state_dict(state["scorer"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
            self.done = state["done"]
        except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise RunError(
                f"{self._state}: cannot go on from it ({error}); remove it to start this scorer "
                "again"
            ) from error

    def epochs(self, tick: Callable[[], None]) -> Iterator[EpochReport]:
        """Train the epochs that are left; `tick` is called after each step."""
        while self.done < self.scorer.settings.epochs:
            loss = self._train_epoch(tick)
            self.done += 1
            self._save()
            yield EpochReport(self.done, loss)

    def _train_epoch(self, tick: Callable[[], None]) -> float:
        settings = self.scorer.settings
        seed = self.scorer.seed * 1000 + self.done
        torch.manual_seed(seed)
        self.scorer.train()
        lengths = [len(r.response) for r in self.readings]
        total = 0.0
        for indices in shuffled_batches(lengths, settings.batch_size, seed):
            chosen = [self.readings[i] for i in indices]
            batch = collate_readings(chosen, self.scorer.mechanisms).to(self._device)
            loss = scorer_loss(self.scorer(batch), batch, self._weights, settings)
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)  # as loss.backward(), which has no types
            nn.utils.clip_grad_norm_(self.scorer.parameters(), CLIP)
            self._optimiser.step()
            self._schedule.step()
            total += loss.item()
            tick()
        return total / self.steps

    def _save(self) -> None:
        temporary = self._state.with_name(f".{self._state.name}.partial")
        torch.save(
            {
                "scorer": self.scorer.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "schedule": self._schedule.state_dict(),
                "done": self.done,
            },
            temporary,
        )
        os.replace(temporary, self._state)


@torch.inference_mode()
def score_readings(
    members: Sequence[EmpathyScorer],
    readings: Sequence[Reading],
    device: torch.device,
    words: WordModel | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Mechanism → (N, 3) logits of the levels, in the readings' order.

    Args:
        members: scorers of the same mechanisms, whose logits are averaged.
        words: adds its logits, by the share that the settings give it.
    """
    names = members[0].mechanisms
    for scorer in members:
        scorer.eval()
    logits = {name: np.zeros((len(readings), 3), np.float32) for name in names}
    order = sorted(range(len(readings)), key=lambda i: len(readings[i].response))
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        batch = collate_readings([readings[i] for i in indices], names).to(device)
        outputs = [scorer(batch).levels for scorer in members]
        for name in names:
            mean = torch.stack([levels[name].float() for levels in outputs]).mean(0)  # (B, 3)
            logits[name][indices] = mean.cpu().numpy()
    if words is not None and readings:
        share = members[0].settings.word_weight
        beside = words.logits([r.words for r in readings])
        for name in logits:
            logits[name] = ((1 - share) * logits[name] + share * beside[name]).astype(np.float32)
    return logits


def _groups(scorer: EmpathyScorer, settings: EmpathySettings) -> list[dict[str, object]]:
    """Parameters by learning rate; vectors (biases, norms) do not decay."""
    groups = []
    for of_encoder, rate in ((True, settings.learning_rate), (False, settings.head_learning_rate)):
        named = scorer.named_parameters()
        parameters = [p for name, p in named if name.startswith("encoder.") == of_encoder]
        for decays in (True, False):
            groups.append(
                {
                    "params": [p for p in parameters if (p.ndim > 1) == decays],
                    "lr": rate,
                    "weight_decay": settings.weight_decay if decays else 0.0,
                }
            )
    return groups


def _warm_up_and_decay(settings: EmpathySettings, steps: int) -> Callable[[int], float]:
    rising = settings.warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return max(0.0, (steps - step) / (steps - rising))

    return factor
