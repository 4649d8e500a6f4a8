"""Commands on the simulated GPU: each returns what it wrote.

Run each in a separate process: see `there`.
"""

from pathlib import Path

import torch
from phantom import LEDGER
from phantom_everywhere import PHANTOM

# isort: split
from rellm_cache.annotation.questions import write_questions
from rellm_cache.annotation.responses import respond
from rellm_cache.annotation.teacher import write_teacher_store
from rellm_cache.annotation.transcripts import transcribe
from rellm_cache.cache_admin.audit import recompute
from rellm_cache.config.schema import Recipe
from rellm_cache.empathy.scoring import score_csv
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.training import train_empathy
from rellm_cache.evaluation.judge import judge
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.training.run import train


def prepare_there(recipe: Recipe, corpus: Path, cache: Path) -> None:
    """All that comes before training."""
    respond(corpus, recipe)
    transcribe([corpus], recipe, cache)
    write_questions(corpus, recipe)
    extract(corpus, recipe, cache)
    write_teacher_store(corpus, recipe, cache)
    recompute(cache, corpus, count=2)


def train_there(recipe: Recipe, corpus: Path, cache: Path, run: Path) -> None:
    """Train, answer, score, and judge answers to questions."""
    train(recipe, corpus, cache, run)
    generate(run, corpus / "test.jsonl", run / "answers.jsonl", cache)
    evaluate(run, corpus / "test.jsonl", cache, EvaluationOptions(2))
    judge([run], corpus / "test.jsonl", cache)


def score_there(settings: EmpathySettings, tables: Path, scorer: Path, replies: Path) -> None:
    """Train a scorer of empathy, and score replies."""
    train_empathy(tables, scorer, settings)
    score_csv(scorer, replies, scorer / "scores.csv")


def computed_with_the_host() -> str:
    """What the device says to tensors of the host."""
    try:
        torch.ones(2, 3, device=PHANTOM) + torch.ones(3)
    except RuntimeError as error:
        return str(error)
    return ""


def bytes_held() -> tuple[int, int, int]:
    """Of a tensor and a view of it, without the tensor, and without both."""
    begun = LEDGER.held
    whole = torch.ones(10, 100, device=PHANTOM)
    part = whole[:5] * 1.0
    view = whole[5:]
    held = [LEDGER.held - begun]
    del whole
    held.append(LEDGER.held - begun)
    del view, part
    return held[0], held[1], LEDGER.held - begun
