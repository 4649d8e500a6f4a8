"""Empathy levels of a reproduction's answers: computed once, also after a kill."""

import json
from pathlib import Path

import pytest
from kills import KilledAfter

from rellm_cache.empathy.epitome import Exchange
from rellm_cache.reproduction import answers as stage
from rellm_cache.reproduction.answers import EMPATHY, Scorer

REPLIES = ("i am so sorry.", "why?", "that sounds hard. what happened?")
EXCHANGES = [Exchange("", f"c{i}", "it sounds hard", reply) for i, reply in enumerate(REPLIES)]


def test_killed_scoring_goes_on_and_is_not_done_twice(
    empathy_scorer: Path,
    tmp_path: Path,
    killed_after: KilledAfter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / EMPATHY
    with killed_after(2):
        Scorer(empathy_scorer).levels(out, EXCHANGES)
    assert not out.exists()
    scores = Scorer(empathy_scorer).levels(out, EXCHANGES)
    assert [row["id"] for row in scores] == ["c0", "c1", "c2"]
    assert scores == [json.loads(line) for line in out.read_text().splitlines()]
    monkeypatch.setattr(stage, "load_empathy", None)
    assert Scorer(empathy_scorer).levels(out, EXCHANGES) == scores
    with pytest.raises(TypeError):  # other answers are scored again
        Scorer(empathy_scorer).levels(out, EXCHANGES[::-1])


def test_scores_of_the_first_edition_are_read(
    empathy_scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / EMPATHY
    scores = Scorer(empathy_scorer).levels(out, EXCHANGES)
    own = [{k: v for k, v in row.items() if k not in ("id", "fingerprint")} for row in scores]
    former = {"identity": scores[0]["fingerprint"], "scores": own}
    out.unlink()
    out.with_suffix(".json").write_text(json.dumps(former))
    monkeypatch.setattr(stage, "load_empathy", None)
    assert Scorer(empathy_scorer).levels(out, EXCHANGES) == scores
