"""Reports of sweeps against numpy, and which scores are compared."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.sweeps.plan import SweepPlan, Variant
from rellm_cache.sweeps.report import SweepReport, SweepRun, comparable_scores

UA = {"baseline": {1: 0.60, 2: 0.64, 3: 0.71}, "wide": {1: 0.66, 2: 0.65, 3: 0.77}}


@pytest.fixture
def report(tmp_path: Path) -> SweepReport:
    """Two variants with three seeds; a fourth seed failed in one of them."""
    plan = SweepPlan("heads", (), (Variant("wide", ("adapter.width=9",)),), (1, 2, 3, 4))
    runs = [
        SweepRun(name, seed, tmp_path / name / f"seed-{seed}", 10.0, {"test.ua": ua})
        for name, scores in UA.items()
        for seed, ua in scores.items()
    ]
    runs.append(SweepRun("baseline", 4, tmp_path / "baseline/seed-4", 10.0, {"test.ua": 0.1}))
    runs.append(SweepRun("wide", 4, tmp_path / "wide/seed-4", error="out of memory"))
    return SweepReport(tmp_path, plan, tmp_path / "manifest", tmp_path / "test.jsonl", runs)


def test_the_files_equal_numpy(report: SweepReport) -> None:
    report.write()
    written = json.loads((report.out / "sweep.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    baseline, wide = written["comparisons"]
    scores = [*UA["baseline"].values(), 0.1]
    assert baseline["score"]["count"] == 4
    assert baseline["score"]["mean"] == pytest.approx(np.mean(scores))
    assert baseline["score"]["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert baseline["difference"] is None
    differences = [UA["wide"][s] - UA["baseline"][s] for s in (1, 2, 3)]
    assert wide["score"]["count"] == wide["difference"]["count"] == 3
    assert wide["difference"]["mean"] == pytest.approx(np.mean(differences))
    assert wide["difference"]["sd"] == pytest.approx(np.std(differences, ddof=1))
    half = 4.302653 * np.std(differences, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert wide["difference"]["low"] == pytest.approx(np.mean(differences) - half)
    assert wide["difference"]["high"] == pytest.approx(np.mean(differences) + half)


def test_the_csv_has_a_row_for_each_run(report: SweepReport) -> None:
    report.write()
    with (report.out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.runs)
    assert (rows[0]["variant"], rows[0]["seed"], rows[0]["test.ua"]) == ("baseline", "1", "0.6")
    assert (rows[-1]["test.ua"], rows[-1]["error"]) == ("", "out of memory")


def test_only_comparable_scores_are_compared(recipe: Recipe) -> None:
    scores = {
        "loss": 3.0,
        "emotion_ce_loss": 1.5,
        "vad_loss": 0.0,
        "ua": 0.5,
        "ccc_valence": float("nan"),
    }
    bare = replace(recipe, losses=replace(recipe.losses, vad=0.0))
    assert comparable_scores(scores, recipe.losses).keys() == {"emotion_ce_loss", "vad_loss", "ua"}
    assert comparable_scores(scores, bare.losses).keys() == {"emotion_ce_loss", "ua"}
