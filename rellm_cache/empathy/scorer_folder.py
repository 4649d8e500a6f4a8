"""Scorer folder: the files that training writes and scoring reads.

<folder>/encoder/                   a copy of the text encoder's files
<folder>/<mechanisms>.safetensors   trained weights, as `ER.safetensors` or `ER-IP-EX.safetensors`;
                                    further members as `ER-IP-EX.2.safetensors`
<folder>/words.safetensors, words.json   the TF-IDF regression, if the settings have one
<folder>/empathy.json               settings, temperatures, scores, digests; written last
"""

import shutil
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rellm_cache.empathy.bi_encoder import EmpathyScorer
from rellm_cache.empathy.epitome import MECHANISMS
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder
from rellm_cache.empathy.tfidf import TfidfModel, load_tfidf
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.utils.atomic_files import replaced_folder, write_file, write_json
from rellm_cache.utils.checksums import recorded, require_intact
from rellm_cache.utils.json_files import build_record, load
from rellm_cache.utils.model_files import SAFE_FILES, check_files, weights_digest
from rellm_cache.utils.tensor_files import load_safetensors

CARD, ENCODER = "empathy.json", "encoder"
FORMAT = 1
AGAIN = f"remove it and {CARD}, and run `rellm empathy train` again"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ScorerCard:
    """Contents of `empathy.json`."""

    settings: EmpathySettings  # settings of the training
    groups: tuple[tuple[str, ...], ...]  # mechanisms of each scorer
    temperatures: dict[str, float]  # mechanism → divisor of its logits
    encoder_digest: str  # SHA-256 of the encoder's config and weights
    data_digest: str  # digest of the exchanges with their levels and rationales
    scores: dict[str, Any]  # part of the data → mechanism → scores
    counts: dict[str, int]  # part of the data → number of exchanges; `test_replies_cut`


@dataclass(frozen=True)
class EmpathyModel:
    """The loaded scorers of one folder."""

    card: ScorerCard
    encoder: TextEncoder
    ensembles: tuple[tuple[EmpathyScorer, ...], ...]  # members of each group of mechanisms
    tfidf: TfidfModel | None


def copy_encoder(source: Path, folder: Path) -> None:
    """Copy an encoder's files into a scorer folder, unless they exist there."""
    target = folder / ENCODER
    if target.is_dir():
        return
    with replaced_folder(target) as partial:
        for pattern in SAFE_FILES:
            for file in source.glob(pattern):
                shutil.copyfile(file, partial / file.name)


def weights_path(folder: Path, scorer: EmpathyScorer) -> Path:
    """File of a scorer's trained weights."""
    number = f".{scorer.member + 1}" if scorer.member else ""
    return folder / f"{'-'.join(scorer.mechanisms)}{number}.safetensors"


def save_scorer(folder: Path, scorer: EmpathyScorer) -> None:
    """Write a scorer's trained weights."""
    path = weights_path(folder, scorer)
    state = {name: tensor.cpu().contiguous() for name, tensor in scorer.state_dict().items()}
    with recorded(folder, path.name):
        write_file(path, lambda temporary: save_file(state, temporary, metadata={"format": "pt"}))


def load_scorer(folder: Path, scorer: EmpathyScorer) -> None:
    """Read trained weights; `RunError` if they are damaged or belong to other settings."""
    path = weights_path(folder, scorer)
    require_intact(path, AGAIN)
    try:
        state = load_safetensors(path, RunError, AGAIN)
        scorer.load_state_dict(state)
        if odd := [n for n, t in state.items() if not bool(t.isfinite().all())]:
            raise ValueError(f"tensor {odd[0]!r}: found NaN or infinite values")
        own = scorer.state_dict()
        if odd := [n for n, t in state.items() if t.dtype != own[n].dtype]:
            raise ValueError(f"tensor {odd[0]!r}: {state[odd[0]].dtype} for {own[odd[0]].dtype}")
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path}: not the weights of the settings in {CARD} ({error}); {AGAIN}"
        ) from error


def save_card(folder: Path, card: ScorerCard) -> None:
    """Write `empathy.json`, which completes the folder."""
    with recorded(folder, CARD):
        write_json(folder / CARD, {"format": FORMAT, **asdict(card)})


def load_card(folder: Path) -> ScorerCard:
    """Read `empathy.json`; `RunError` if it is missing, damaged, or has a later format."""
    path = folder / CARD
    require_intact(path, AGAIN)
    try:
        content = load(path)
        if content["format"] != FORMAT:
            raise RunError(
                f"{path}: format {content['format']}, expected {FORMAT}; use a newer rellm"
            )
        known = {field.name for field in fields(ScorerCard)}
        card = build_record(ScorerCard, {k: v for k, v in content.items() if k in known})
        mechanisms = set(sum(card.groups, ()))
        if not mechanisms or not mechanisms <= MECHANISMS.keys() & card.temperatures.keys():
            raise ValueError(f"groups {card.groups} and temperatures {card.temperatures}")
        return card
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError) as error:
        raise RunError(
            f"{folder}: not the folder of a trained empathy scorer ({type(error).__name__}: "
            f"{error}); expected {CARD}, which `rellm empathy train` writes last"
        ) from error


def load_empathy(folder: Path, device: torch.device) -> EmpathyModel:
    """Load the scorers of a folder.

    Raises:
        RunError: training has not finished, or the encoder differs from that of the training.
    """
    card = load_card(folder)
    try:
        check_files(folder / ENCODER, TOKENIZER_FILES)
    except ConfigError as error:
        raise RunError(str(error)) from error
    if weights_digest(folder / ENCODER) != card.encoder_digest:
        raise RunError(
            f"{folder / ENCODER}: other weights than this scorer was trained with; train again"
        )
    encoder = TextEncoder(folder / ENCODER, device)
    ensembles = tuple(
        tuple(EmpathyScorer(encoder, card.settings, group, m) for m in range(card.settings.members))
        for group in card.groups
    )
    for scorer in chain.from_iterable(ensembles):
        load_scorer(folder, scorer)
    names = [name for group in card.groups for name in group]
    tfidf = load_tfidf(folder, names) if card.settings.word_weight else None
    return EmpathyModel(card, encoder, ensembles, tfidf)
