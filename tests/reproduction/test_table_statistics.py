"""Statistics of Table I: means, UA by fold, paired comparisons, the paper's direction."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.metrics.classification import ua_of_rows
from rellm_cache.reproduction.answers import Record, write_records
from rellm_cache.reproduction.paper import (
    BASELINE,
    MAIN,
    METRICS,
    ROWS,
    paper_directions,
    paper_mean,
)
from rellm_cache.reproduction.table_statistics import compare, summarize_row, ua_by_fold

ROW = {row.name: row for row in ROWS}


def record(row: str, number: int, **changes: object) -> Record:
    emotion = ("sad", "happy")[number % 2]
    made = Record(
        fold=f"fold-{number // 10 + 1}", row=row, id=str(number), speaker="a", emotion=emotion,
        head=emotion, llm=emotion, llm_in_words="", words=number, questions=1, cut=number > 14,
        er=number % 3, ex=0, er_long=2, ex_long=0, text="What?", response="That is sad.",
    )  # fmt: skip
    return replace(made, **changes)


def test_a_row_summarizes_its_answers() -> None:
    records = [record(MAIN, i, llm="sad") for i in range(20)]
    found = summarize_row(ROW[MAIN], records, "iemocap")
    assert found.answers == 20
    assert found.empathy["ER"].summary.mean == pytest.approx(0.95)
    assert found.empathy["ER + EX"].summary.mean == pytest.approx(0.95)
    assert found.empathy["ER long"].summary.mean == 2
    low, high = found.empathy["ER"].interval.low, found.empathy["ER"].interval.high
    assert low < 0.95 < high
    assert found.recognition["UA"].mean == pytest.approx(0.5)  # one class right, one wrong
    assert found.recognition["UA head"].mean == 1
    assert found.recognition["UA"].count == 2
    assert "UA in words" not in found.recognition
    assert found.unparsable == 1
    assert found.words.mean == 9.5
    assert found.cut == pytest.approx(5 / 20)
    assert found.paper == {"ER": 1.805, "EX": 0.822, "UA": 0.766}
    assert summarize_row(ROW[MAIN], records, "ravdess").paper == {}


def test_without_a_scorer_there_is_no_empathy() -> None:
    bare = {"er": None, "ex": None, "er_long": None, "ex_long": None, "cut": None}
    records = [record("text-llm", i, head="", llm="", **bare) for i in range(4)]
    found = summarize_row(ROW["text-llm"], records, "esd")
    assert (found.empathy, found.recognition, found.cut, found.unparsable) == ({}, {}, None, None)
    assert compare({"text-llm": records, MAIN: records}, {}, "esd") == []


def test_ua_is_the_mean_of_recalls_of_each_fold() -> None:
    records = [record(MAIN, i, llm="sad" if i < 10 else "happy") for i in range(15)]
    records.append(record(MAIN, 15, emotion="", llm="happy"))  # unlabelled: it counts nowhere
    assert ua_by_fold(records, lambda r: r.llm) == {"fold-1": 0.5, "fold-2": 0.5}


def test_ua_of_rows_equals_each_row() -> None:
    import numpy as np

    true = np.array([[0, 0, 0, 1], [1, 1, 1, 1.0]])
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0.0]])
    assert ua_of_rows(true, right).tolist() == pytest.approx([(2 / 3 + 0) / 2, 0.25])


def test_pairs_are_answers_to_the_same_utterance() -> None:
    better = [record(MAIN, i, er=2, llm=("sad", "happy")[i % 2]) for i in range(20)]
    worse = [record(BASELINE, i, er=1, llm="sad") for i in reversed(range(20))]
    other = [record("text-llm", i, er=2, llm="") for i in range(20)]
    same = {"re-llm-no-dimensions": MAIN}
    rows = {MAIN: better, BASELINE: worse, "text-llm": other, "re-llm-no-dimensions": better}
    found = {(c.second, c.metric): c for c in compare(rows, same, "iemocap")}
    assert {second for second, _ in found} == {BASELINE, "text-llm"}
    er = found[BASELINE, "ER"]
    assert er.difference.value == 1
    assert (er.test.better, er.test.worse, er.test.effect) == (20, 0, 1)
    assert er.p_holm == pytest.approx(2 * er.test.p)
    assert er.paper == {"iemocap": 0.034}
    assert er.direction == "same"
    assert found["text-llm", "ER"].direction == "none"
    assert found["text-llm", "EX"].test.p == 1
    ua = found[BASELINE, "UA"]
    assert ua.difference.value == pytest.approx(0.5)
    assert ua.difference.low <= 0.5 <= ua.difference.high
    assert ("text-llm", "UA") not in found
    swapped = {MAIN: [replace(r, row=MAIN) for r in worse], BASELINE: better}
    (first, *_) = compare(swapped, {}, "iemocap")
    assert (first.difference.value, first.direction) == (-1, "other")


def test_all_means_of_the_paper_are_there() -> None:
    for corpus in ("iemocap", "esd", "msp-podcast"):
        for metric in METRICS:
            known = [row.name for row in ROWS if paper_mean(corpus, metric, row.name) is not None]
            assert len(known) == {"ER": 7, "EX": 8, "UA": 5}[metric]
    assert paper_mean("esd", "EX", MAIN) == 1.206
    assert paper_mean("ravdess", "EX", MAIN) is None
    assert paper_directions("msp-podcast", "UA", MAIN, BASELINE) == {"msp-podcast": -0.021}
    assert paper_directions("ravdess", "UA", MAIN, BASELINE) == {
        "iemocap": 0.038, "esd": 0.015, "msp-podcast": -0.021,
    }  # fmt: skip


def test_records_are_read_back_from_csv(tmp_path: Path) -> None:
    answer = 'He said: "no",\nthen left.'
    write_records(tmp_path / "all.csv", [record(MAIN, 20, response=answer), record(MAIN, 1)])
    import csv

    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["response"] == answer
    assert [row["cut"] for row in rows] == ["1", "0"]
    assert json.dumps(rows[0]["er"]) == '"2"'
