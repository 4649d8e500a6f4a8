"""Training of empathy scorers on EPITOME's tables, resumable after each epoch.

The test part is one fold of the posts. It is scored once, after training. On one machine, the same
settings, data and seed give the same scorer, even after a killed run: each epoch saves the state
and has its own seed for order and dropout.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rellm_cache.config.specs import digest
from rellm_cache.empathy.bi_encoder import EmpathyScorer, class_weights, member_seed, scorer_loss
from rellm_cache.empathy.epitome import MECHANISMS, Exchange, Split, read_epitome, split_by_post
from rellm_cache.empathy.exchanges import (
    EncodedExchange,
    collate_exchanges,
    encode_exchanges,
    shuffled_batches,
)
from rellm_cache.empathy.metrics import fit_mechanism, score_mechanism
from rellm_cache.empathy.scorer_folder import (
    CARD,
    TOKENIZER_FILES,
    ScorerCard,
    copy_encoder,
    load_card,
    load_scorer,
    save_card,
    save_scorer,
    weights_path,
)
from rellm_cache.empathy.scoring import level_logits
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder
from rellm_cache.empathy.tfidf import fit_tfidf, save_tfidf
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.utils.atomic_files import is_temporary, write_file, write_json
from rellm_cache.utils.console import progress, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.model_files import find_model, weights_digest
from rellm_cache.utils.state_files import save_state
from rellm_cache.utils.tensor_files import load_torch

PLAN = "training.json"
STATE = ".state.pt"  # state of an unfinished training
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class TrainingSources:
    """Data and encoder of a training."""

    split: Split  # the exchanges
    mechanisms: tuple[str, ...]  # mechanisms with a table
    encoder: Path  # folder of the text encoder
    data_digest: str  # digest of the exchanges
    encoder_digest: str  # digest of the encoder's config and weights


@dataclass(frozen=True)
class EncodedData:
    """Encoded exchanges, which scorers with equal `settings.encoding` can share.

    `train` is cut at `training_tokens`. In `parts`, "validation" and "test" are cut at `tokens`,
    "validation_long" and "test_long" at `long_tokens`.
    """

    settings: EmpathySettings
    sources: TrainingSources
    encoder: TextEncoder
    train: list[EncodedExchange]
    parts: dict[str, list[EncodedExchange]]


def train_empathy(data: Path, out: Path, settings: EmpathySettings) -> ScorerCard:
    """Train scorers for the mechanisms with a table in `data` and write them to `out`.

    Raises:
        ManifestError, ConfigError: the tables, or the encoder with these settings, cannot be used.
        RunError: `out` has a scorer with other settings, data or encoder, or something else.
        RellmError: another process writes `out`.
    """
    sources = find_sources(data, settings)
    with hold_folder(out):
        if _is_done(out, settings, sources):
            return load_card(out)
        return train_scorers(encode_data(sources, settings), out, settings)


def find_sources(data: Path, settings: EmpathySettings) -> TrainingSources:
    """Read the tables, split them and find the encoder."""
    exchanges = read_epitome(data)
    split = split_by_post(exchanges, settings.fold)
    mechanisms = tuple(m for m in MECHANISMS if any(m in e.levels for e in exchanges))
    for part in ("train", "validation", "test"):
        judged = {m for e in getattr(split, part) for m in e.levels}
        if absent := [m for m in mechanisms if m not in judged]:
            raise ManifestError(
                f"{data}: too few posts: {part} has none that is judged for {', '.join(absent)}"
            )
    folder = find_model(settings.encoder, TOKENIZER_FILES, settings.revision)
    data_digest = digest([dataclasses.asdict(e) for e in exchanges])
    return TrainingSources(split, mechanisms, folder, data_digest, weights_digest(folder))


def train_scorers(data: EncodedData, out: Path, settings: EmpathySettings) -> ScorerCard:
    """Train, calibrate on validation, score the test part, and write the scorer folder.

    Raises:
        ConfigError: the data was encoded with other settings.
        RunError: `out` has a scorer with other settings, data or encoder.
    """
    if settings.encoding != data.settings.encoding:
        raise ConfigError(
            f"settings: texts were encoded with {data.settings.encoding}, expected "
            f"{settings.encoding}"
        )
    if _is_done(out, settings, data.sources):
        return load_card(out)
    device = data.encoder.device
    copy_encoder(data.encoder.folder, out)
    names = data.sources.mechanisms
    groups = (names,) if settings.together else tuple((name,) for name in names)
    tfidf = fit_tfidf(data.train, names) if settings.word_weight else None
    temperatures: dict[str, float] = {}
    scores: dict[str, dict[str, Any]] = {}
    for group in groups:
        members = [_train(group, m, data, settings, out) for m in range(settings.members)]
        for part, exchanges in data.parts.items():
            logits = level_logits(members, exchanges, device, tfidf)
            if part == "validation":
                temperatures |= {m: fit_mechanism(logits[m], exchanges, m) for m in group}
            for m in group:
                found = score_mechanism(logits[m], exchanges, m, temperatures[m])
                scores.setdefault(part, {})[m] = dataclasses.asdict(found)
    counts = {"train": len(data.train)}
    counts |= {part: len(data.parts[part]) for part in ("validation", "test")}
    counts["test_replies_cut"] = sum(e.reply_cut for e in data.parts["test"])
    card = ScorerCard(
        settings,
        groups,
        temperatures,
        data.sources.encoder_digest,
        data.sources.data_digest,
        scores,
        counts,
    )
    if tfidf is not None:
        save_tfidf(out, tfidf)
    save_card(out, card)
    for state in out.glob(f"*{STATE}"):
        state.unlink()
    return card


def encode_data(sources: TrainingSources, settings: EmpathySettings) -> EncodedData:
    """Cut all texts and run the frozen layers over them."""
    split = sources.split
    encoder = TextEncoder(sources.encoder, default_device())
    encoder.require_length(max(settings.long_tokens, settings.training_tokens))
    limits = {"": settings.tokens, "_long": settings.long_tokens}
    held = {"validation": split.validation, "test": split.test}
    return EncodedData(
        settings,
        sources,
        encoder,
        _encode(split.train, encoder, settings, settings.training_tokens),
        {
            part + suffix: _encode(exchanges, encoder, settings, limit)
            for part, exchanges in held.items()
            for suffix, limit in limits.items()
        },
    )


def _is_done(out: Path, settings: EmpathySettings, sources: TrainingSources) -> bool:
    """Whether `out` has the finished scorer; a new folder gets a record of settings and inputs."""
    plan = {
        "settings": dataclasses.asdict(settings),
        "data": sources.data_digest,
        "encoder": sources.encoder_digest,
    }
    path = out / PLAN
    if path.is_file():
        before = read_object(path, RunError, "remove the folder to train its scorer again")
        # A setting that an earlier version did not have had today's default.
        if isinstance(kept := before.get("settings"), dict):
            before["settings"] = dataclasses.asdict(EmpathySettings()) | kept
        changed = [k for k in plan if before.get(k) != plan[k]]
        if changed:
            raise RunError(
                f"{out}: has a scorer with other {', '.join(changed)}; choose another --out or "
                "remove the folder"
            )
    else:
        if (
            out.exists()
            and not (out / CARD).is_file()
            and not all(map(is_temporary, out.iterdir()))
        ):
            raise RunError(
                f"{out}: is not empty and is no scorer ({PLAN} is missing); choose another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    return (out / CARD).is_file()


def _encode(
    exchanges: Sequence[Exchange], encoder: TextEncoder, settings: EmpathySettings, limit: int
) -> list[EncodedExchange]:
    encoded: list[EncodedExchange] = []
    with progress(f"Reading {limit} tokens", len(exchanges), "exchanges") as tick:
        for exchange in encode_exchanges(exchanges, encoder, settings, limit):
            encoded.append(exchange)
            tick()
    return encoded


def _train(
    group: Sequence[str], member: int, data: EncodedData, settings: EmpathySettings, out: Path
) -> EmpathyScorer:
    """Train one member of a group's ensemble, or load it from `out` if it is there."""
    torch.manual_seed(member_seed(settings, member))
    scorer = EmpathyScorer(data.encoder, settings, group, member)
    path = weights_path(out, scorer)
    if path.is_file():
        load_scorer(out, scorer)
        return scorer
    judged = [e for e in data.train if any(m in e.levels for m in group)]
    state = path.with_suffix(STATE)
    training = ScorerTraining(scorer, judged, state, data.encoder.device)
    training.resume()
    left = (settings.epochs - training.done) * training.steps
    name = " and ".join(group)
    if settings.members > 1:
        name += f", {member + 1} of {settings.members}"
    with progress(f"Training {name}", left, "steps") as tick:
        for loss in training.epochs(tick):
            say(f"{name}: epoch {training.done} of {settings.epochs}, loss {loss:.3f}")
    save_scorer(out, scorer)
    return scorer


class ScorerTraining:
    """AdamW training of one scorer, resumable after each epoch."""

    def __init__(
        self,
        scorer: EmpathyScorer,
        exchanges: Sequence[EncodedExchange],
        state: Path,
        device: torch.device,
    ) -> None:
        settings = scorer.settings
        self.scorer = scorer
        self.exchanges = exchanges
        self.steps = math.ceil(len(exchanges) / settings.batch_size)
        self._state = state
        self._device = device
        self._weights = {
            name: class_weights([e.levels[name] for e in exchanges if name in e.levels],
                                settings.class_power).to(device)
            for name in scorer.mechanisms
        }  # fmt: skip
        self._optimizer = torch.optim.AdamW(_parameter_groups(scorer, settings))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, _warm_up_and_decay(settings, self.steps * settings.epochs)
        )
        self.done = 0

    def resume(self) -> None:
        """Continue from the state file, if any; `RunError` if it belongs to another training."""
        if not self._state.is_file():
            return
        fix = "remove it to start this scorer again"
        state = load_torch(self._state, RunError, fix, map_location=self._device)
        try:
            self.scorer.load_state_dict(state["scorer"])
            self._optimizer.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
            self.done = state["done"]
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{self._state}: cannot continue from it ({error}); {fix}") from error

    def epochs(self, tick: Callable[[], None]) -> Iterator[float]:
        """Train the remaining epochs and yield their mean losses; calls `tick` after each step."""
        while self.done < self.scorer.settings.epochs:
            loss = self._train_epoch(tick)
            self.done += 1
            self._save()
            yield loss

    def _train_epoch(self, tick: Callable[[], None]) -> float:
        settings = self.scorer.settings
        seed = self.scorer.seed * 1000 + self.done
        torch.manual_seed(seed)
        self.scorer.train()
        lengths = [len(e.response) for e in self.exchanges]
        total = 0.0
        for indices in shuffled_batches(lengths, settings.batch_size, seed):
            chosen = [self.exchanges[i] for i in indices]
            batch = collate_exchanges(chosen, self.scorer.mechanisms).to(self._device)
            loss = scorer_loss(self.scorer(batch), batch, self._weights, settings)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)  # loss.backward() has no type hints
            nn.utils.clip_grad_norm_(self.scorer.parameters(), MAX_GRAD_NORM)
            self._optimizer.step()
            self._schedule.step()
            total += loss.item()
            tick()
        return total / self.steps

    def _save(self) -> None:
        state = {
            "scorer": self.scorer.state_dict(),
            "optimiser": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "done": self.done,
        }
        write_file(self._state, lambda temporary: save_state(temporary, state))


def _parameter_groups(scorer: EmpathyScorer, settings: EmpathySettings) -> list[dict[str, object]]:
    """Parameter groups by learning rate; vectors (biases, norms) have no weight decay."""
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
