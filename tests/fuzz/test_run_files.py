"""Fuzzing of the files of a run: JSON, JSON Lines, checksums and predictions."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzzing import (
    damaged_bytes,
    damaged_file,
    damaged_json,
    damaged_lines,
    fuzz,
    replace,
    value_or_named_error,
)
from hypothesis.strategies import SearchStrategy

from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.statistics import read_report
from rellm_cache.empathy.scorer_folder import ScorerCard, load_card
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.tfidf import load_tfidf
from rellm_cache.evaluation.predictions import read_predictions
from rellm_cache.evaluation.report import charts
from rellm_cache.runs.card import read_card, render_card
from rellm_cache.runs.check import check_folder
from rellm_cache.runs.folder import require_same_data
from rellm_cache.runs.provenance import DataSummary, TrainingRecord, load_training
from rellm_cache.runs.weights import AdapterInfo, config_text, load_info
from rellm_cache.sweeps.run import Outcome, read_outcome
from rellm_cache.training.loop import read_metrics
from rellm_cache.utils.checksums import record
from rellm_cache.utils.resumable_table import ResultTable

DATA = DataSummary(3, 0.1, 2, {"demo": 3}, {"train": 3}, {"sad": 3}, {"human": 3}, "paper, seed 1")
TRAINING = TrainingRecord(
    "0.1", DATA, DATA, 40, 1.5, 1, {"device": "cpu"}, "", "", {"loss": 0.5, "ua": 0.25}, "/cache"
)
SCORES = {
    "clips": 3,
    "data": asdict(DATA),
    "head": {"ua": 0.6, "accuracy": 0.6, "ccc": {"arousal": 0.7}},
    "llm": {"ua": 0.7, "accuracy": 0.6, "generation": {"ua": 0.1}, "unparsable": 0.5},
    "empathy": {"levels": {"ER": {"mean": 1.0}}},
    "losses": {"vad": 0.1},
    "manifest": "/m",
}
METRICS = [
    {"step": 0, "validation": {"loss": 1.0, "ua": None}},
    {"step": 1, "epoch": 1, "loss": 0.5, "vad_loss": 0.25, "rate": 1e-4},
    {"step": 2, "epoch": 1, "loss": 0.4, "vad_loss": 0.25, "rate": 1e-4},
]
EVALUATED = [
    {"id": "a", "fingerprint": "f1", "head": "sad", "dimensions": [0.1, 0.2, 0.3]},
    {"id": "", "fingerprint": "f2", "losses": {"vad": 0.1}},
]
CARD = ScorerCard(
    EmpathySettings(), (("ER", "IP"),), {"ER": 1.0, "IP": 1.0}, "e", "d", {}, {"a": 1}
)


def make_run(folder: Path) -> Recipe:
    """Every text file of a run, of a sweep's run and of a scorer, in one folder."""
    recipe = load_recipe("heads")
    info = AdapterInfo({"speech": 384}, 384, 1000, {"whisper": "MIT"})
    documents: dict[str, Any] = {
        "training.json": asdict(TRAINING),
        "scores.json": SCORES,
        "outcome.json": asdict(Outcome("t", 1.5, {"ua": 0.5}, "x", {"ua": 0.4})),
        "empathy.json": {"format": 1, **asdict(CARD)},
        "words.json": ["so", "why so"],
        "report.json": {"splits": "paper", "seed": 1, "limits": {"min_seconds": 0.3}},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), "utf-8")
    (folder / "adapter_config.json").write_text(config_text(info, recipe), "utf-8")
    (folder / "recipe.toml").write_text(to_toml(recipe), "utf-8")
    (folder / "data.sha256").write_text("0" * 64 + "\n")
    (folder / "predictions.csv").write_text("id,head\na,sad\n'=b,happy\n")
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, METRICS)) + "\n")
    (folder / "evaluated.jsonl").write_text("\n".join(map(json.dumps, EVALUATED)) + "\n")
    (folder / "checkpoints/step-1").mkdir(parents=True)
    return recipe


def readers(folder: Path) -> dict[str, Callable[[], object]]:
    return {
        "training.json": lambda: load_training(folder),
        "scores.json": lambda: render_card(read_card(folder)),
        "adapter_config.json": lambda: render_card(read_card(folder)),
        "recipe.toml": lambda: read_card(folder),
        "outcome.json": lambda: read_outcome(folder),
        "empathy.json": lambda: load_card(folder),
        "words.json": lambda: load_tfidf(folder, ["ER"]),
        "report.json": lambda: read_report(folder),
        "data.sha256": lambda: require_same_data("0" * 64, folder),
        "predictions.csv": lambda: read_predictions(folder / "predictions.csv"),
        "metrics.jsonl": lambda: charts(list(read_metrics(folder))),
        "evaluated.jsonl": lambda: ResultTable(folder / "evaluated.jsonl", {"a": "f1", "": "f2"}),
        "results.sha256": lambda: (check_folder(folder), load_info(folder)),
    }


def damages(folder: Path) -> dict[str, SearchStrategy[bytes]]:
    found: dict[str, SearchStrategy[bytes]] = {}
    for name in readers(folder):
        data = (folder / name).read_bytes()
        if name.endswith(".json"):
            found[name] = damaged_json(json.loads(data))
        elif name.endswith(".jsonl"):
            found[name] = damaged_lines([json.loads(line) for line in data.splitlines()])
        else:
            found[name] = damaged_bytes(data)
    return found


def test_run_files(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "results.sha256").write_text(f"{'0' * 64}  scores.json\n")
    strategies = damages(tmp_path)
    (tmp_path / "results.sha256").unlink()
    read = readers(tmp_path)

    def check(changed: tuple[str, bytes]) -> None:
        name, content = changed
        if name == "results.sha256":
            record(tmp_path, ["scores.json", "training.json"])
        restore = replace(tmp_path, name, content)
        try:
            value_or_named_error(read[name], tmp_path)
        finally:
            restore()
            (tmp_path / "results.sha256").unlink(missing_ok=True)

    fuzz(damaged_file(strategies), check)
