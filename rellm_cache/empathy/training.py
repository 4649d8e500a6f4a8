"""empathy train. In: EPITOME's tables and settings. Out: a folder that scores replies.

A killed call goes on after the last whole epoch. The posts of one fold are held out: they are
scored once, when everything is trained.
"""

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rellm_cache.config.specs import digest
from rellm_cache.empathy.bi_encoder import EmpathyScorer, class_weights, member_seed, scorer_loss
from rellm_cache.empathy.epitome import MECHANISMS, Exchange, Split, read_epitome, split_by_post
from rellm_cache.empathy.exchanges import (
    CHUNK,
    Reading,
    collate_readings,
    read_exchanges,
    shuffled_batches,
)
from rellm_cache.empathy.metrics import fit_mechanism, score_mechanism
from rellm_cache.empathy.scorer_folder import (
    CARD,
    TOKENIZER_FILES,
    EmpathyCard,
    copy_encoder,
    load_card,
    load_scorer,
    save_card,
    save_scorer,
    weights_path,
)
from rellm_cache.empathy.scoring import score_readings
from rellm_cache.empathy.settings import EmpathySettings, to_table
from rellm_cache.empathy.text_encoder import TextEncoder
from rellm_cache.empathy.tfidf import fit_words, save_words
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.utils.atomic_files import write_file, write_json
from rellm_cache.utils.console import progress, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.model_files import find_model, weights_digest

PLAN = "training.json"
STATE = ".state.pt"  # of a network half trained
CLIP = 1.0


@dataclass(frozen=True)
class Sources:
    """What a scorer is made of.

    Attributes:
        split: the exchanges.
        mechanisms: that the tables judge.
        encoder: folder of the text encoder.
        data_digest: of the exchanges.
        encoder_digest: of the encoder's config and weights.
    """

    split: Split
    mechanisms: tuple[str, ...]
    encoder: Path
    data_digest: str
    encoder_digest: str


@dataclass(frozen=True)
class Material:
    """Read once, for scorers that differ in how they train alone.

    Attributes:
        settings: it was read with.
        sources: where it comes from.
        encoder: as it came.
        train: readings to train on, cut at `training_tokens`.
        parts: "validation" and "test" cut at `tokens`, "validation_long" and "test_long" at
            `long_tokens`.
    """

    settings: EmpathySettings
    sources: Sources
    encoder: TextEncoder
    train: list[Reading]
    parts: dict[str, list[Reading]]


def empathy_train(data: Path, out: Path, settings: EmpathySettings) -> EmpathyCard:
    """Train scorers for the mechanisms that `data` judges; write them to `out`.

    Raises:
        ManifestError: the tables cannot be used, or a part of the split is empty.
        ConfigError: the encoder cannot be found or used with these settings.
        RunError: `out` holds a scorer of other settings, data or encoder.
    """
    sources = find_sources(data, settings)
    if _is_done(out, settings, sources):
        return load_card(out)
    return train_scorers(read_material(sources, settings), out, settings)


def find_sources(data: Path, settings: EmpathySettings) -> Sources:
    """Read the tables, split them and find the encoder."""
    exchanges = read_epitome(data)
    split = split_by_post(exchanges, settings.fold)
    mechanisms = tuple(m for m in MECHANISMS if any(m in e.levels for e in exchanges))
    for part in ("train", "validation", "test"):
        judged = {m for e in getattr(split, part) for m in e.levels}
        if absent := [m for m in mechanisms if m not in judged]:
            raise ManifestError(
                f"{data}: too few posts; none that is judged for {', '.join(absent)} falls into "
                f"{part}"
            )
    folder = find_model(settings.encoder, TOKENIZER_FILES, settings.revision)
    data_digest = digest([dataclasses.asdict(e) for e in exchanges])
    return Sources(split, mechanisms, folder, data_digest, weights_digest(folder))


def train_scorers(material: Material, out: Path, settings: EmpathySettings) -> EmpathyCard:
    """Train, calibrate on validation, score what was held out, write.

    Raises:
        ConfigError: the material was read with other settings of reading.
        RunError: `out` holds a scorer of other settings, data or encoder.
    """
    if settings.reading != material.settings.reading:
        raise ConfigError(
            f"settings: texts were read as {material.settings.reading}, expected {settings.reading}"
        )
    if _is_done(out, settings, material.sources):
        return load_card(out)
    device = material.encoder.device
    copy_encoder(material.encoder.folder, out)
    names = material.sources.mechanisms
    groups = (names,) if settings.together else tuple((name,) for name in names)
    words = fit_words(material.train, names) if settings.word_weight else None
    temperatures: dict[str, float] = {}
    scores: dict[str, dict[str, Any]] = {}
    for group in groups:
        members = [_train(group, m, material, settings, out) for m in range(settings.members)]
        for part, readings in material.parts.items():
            logits = score_readings(members, readings, device, words)
            if part == "validation":
                temperatures |= {m: fit_mechanism(logits[m], readings, m) for m in group}
            for m in group:
                found = score_mechanism(logits[m], readings, m, temperatures[m])
                scores.setdefault(part, {})[m] = dataclasses.asdict(found)
    counts = {"train": len(material.train)}
    counts |= {part: len(material.parts[part]) for part in ("validation", "test")}
    counts["test_replies_cut"] = sum(r.reply_cut for r in material.parts["test"])
    card = EmpathyCard(
        settings,
        groups,
        temperatures,
        material.sources.encoder_digest,
        material.sources.data_digest,
        scores,
        counts,
    )
    if words is not None:
        save_words(out, words)
    save_card(out, card)
    for state in out.glob(f"*{STATE}"):
        state.unlink()
    return card


def read_material(sources: Sources, settings: EmpathySettings) -> Material:
    """Cut texts and run what is frozen, once."""
    split = sources.split
    encoder = TextEncoder(sources.encoder, default_device())
    encoder.require_length(max(settings.long_tokens, settings.training_tokens))
    limits = {"": settings.tokens, "_long": settings.long_tokens}
    held = {"validation": split.validation, "test": split.test}
    return Material(
        settings,
        sources,
        encoder,
        _read(split.train, encoder, settings, settings.training_tokens),
        {
            part + suffix: _read(exchanges, encoder, settings, limit)
            for part, exchanges in held.items()
            for suffix, limit in limits.items()
        },
    )


def _is_done(out: Path, settings: EmpathySettings, sources: Sources) -> bool:
    """Whether `out` holds this very scorer; made ready for it otherwise."""
    plan = {
        "settings": to_table(settings),
        "data": sources.data_digest,
        "encoder": sources.encoder_digest,
    }
    path = out / PLAN
    if path.is_file():
        before = read_object(path, RunError, "remove the folder, and its scorer is trained again")
        changed = [k for k in plan if before.get(k) != plan[k]]
        if changed:
            raise RunError(
                f"{out}: holds a scorer of other {', '.join(changed)}; choose another --out or "
                "remove the folder"
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    return (out / CARD).is_file()


def _read(
    exchanges: Sequence[Exchange], encoder: TextEncoder, settings: EmpathySettings, limit: int
) -> list[Reading]:
    with progress(f"Reading {limit} tokens", len(exchanges), "exchanges") as tick:
        readings: list[Reading] = []
        for start in range(0, len(exchanges), CHUNK):
            chunk = exchanges[start : start + CHUNK]
            readings += read_exchanges(chunk, encoder, settings, limit)
            tick(len(chunk))
        return readings


def _train(
    group: Sequence[str], member: int, material: Material, settings: EmpathySettings, out: Path
) -> EmpathyScorer:
    """A trained member of the scorers of some mechanisms: from `out` if it is there."""
    torch.manual_seed(member_seed(settings, member))
    scorer = EmpathyScorer(material.encoder, settings, group, member)
    path = weights_path(out, scorer)
    if path.is_file():
        load_scorer(out, scorer)
        return scorer
    judged = [r for r in material.train if any(m in r.levels for m in group)]
    state = path.with_suffix(STATE)
    training = ScorerTraining(scorer, judged, state, material.encoder.device)
    training.resume()
    left = (settings.epochs - training.done) * training.steps
    name = " and ".join(group)
    if settings.members > 1:
        name += f", {member + 1} of {settings.members}"
    with progress(f"Training {name}", left, "steps") as tick:
        for report in training.epochs(tick):
            say(f"{name}: epoch {report.epoch} of {settings.epochs}, loss {report.loss:.3f}")
    save_scorer(out, scorer)
    return scorer


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
        state = {
            "scorer": self.scorer.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "done": self.done,
        }
        write_file(self._state, partial(torch.save, state))


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
