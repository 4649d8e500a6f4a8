"""Scoring of a CSV file: added columns, resuming, files that are up to date."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.empathy.scoring import score_csv
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.utils.resumable_table import journal_beside

ROWS = [
    ("1", "it sounds hard", "i am so sorry."),
    ("2", "it sounds hard", "get up and take a walk. why are you? what happened?"),
    ("3", "i am so sorry that it sounds so hard, why", "why?"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "replies.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "seeker_post", "response_post"), *ROWS])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_levels_are_added_to_the_rows(empathy_scorer: Path, source: Path, tmp_path: Path) -> None:
    report = score_csv(empathy_scorer, source, tmp_path / "scored.csv")
    rows = read(tmp_path / "scored.csv")
    assert [(r["id"], r["seeker_post"], r["response_post"]) for r in rows] == ROWS
    assert list(rows[0])[3:7] == ["ER_label", "ER_p0", "ER_p1", "ER_p2"]
    for row in rows:
        for name in ("ER", "IP", "EX"):
            for end in ("", "_long"):
                shares = [float(row[f"{name}_p{level}{end}"]) for level in range(3)]
                assert sum(shares) == pytest.approx(1, abs=2e-4)
                assert shares[int(row[f"{name}_label{end}"])] == max(shares)
    assert [(r["reply_cut"], r["post_cut"]) for r in rows] == [("0", "0"), ("1", "0"), ("0", "1")]
    assert rows[0]["EX_p0"] == rows[0]["EX_p0_long"]
    assert rows[1]["EX_p0"] != rows[1]["EX_p0_long"]
    assert (report.rows, report.replies_cut, report.posts_cut) == (3, 1, 1)
    assert report.levels["ER"].mean == sum(int(r["ER_label"]) for r in rows) / 3


def test_it_resumes_after_a_kill(
    empathy_scorer: Path, source: Path, tmp_path: Path, killed_after: Any
) -> None:
    whole = score_csv(empathy_scorer, source, tmp_path / "whole.csv")
    out = tmp_path / "scored.csv"
    with killed_after(2) as kept:
        score_csv(empathy_scorer, source, out)
    assert (len(kept), out.exists()) == (2, False)
    assert score_csv(empathy_scorer, source, out) == whole
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["replies.csv", "scored.csv", "whole.csv"]


def test_rows_before_a_kill_are_not_scored_again(
    empathy_scorer: Path, source: Path, tmp_path: Path, killed_after: Any
) -> None:
    out = tmp_path / "scored.csv"
    with killed_after(2) as kept:
        score_csv(empathy_scorer, source, out)
    journal = journal_beside(out)
    journal.write_text(journal.read_text().replace(kept[1]["ER_p0"], "marked"))
    score_csv(empathy_scorer, source, out)
    assert [row["ER_p0"] == "marked" for row in read(out)] == [False, True, False]


def test_a_scored_file_is_not_scored_again(
    empathy_scorer: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored.csv"
    first = score_csv(empathy_scorer, source, out)
    written = out.stat().st_mtime_ns
    assert score_csv(empathy_scorer, source, out) == first
    assert "scored.csv: nothing to do, 3 replies are scored" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == written
    source.write_text(source.read_text("utf-8").replace("why?", "why not?"), "utf-8")
    score_csv(empathy_scorer, source, out)
    assert "nothing to do" not in capsys.readouterr().err
    assert read(out)[2]["response_post"] == "why not?"
    out.write_bytes(b"\xff\xfe thesis")
    with pytest.raises(ManifestError, match=r"scored\.csv:1: not UTF-8"):
        score_csv(empathy_scorer, source, out)


def test_unusable_tables_are_refused(empathy_scorer: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    for text, message in (
        ("seeker_post,reply\na,b\n", "column response_post is missing"),
        ("seeker_post,response_post\na,b\nc,\n", "in.csv:3: response_post is empty"),
        ("seeker_post,response_post\n", "no rows below the header"),
        ("seeker_post,response_post,ER_label\na,b,0\n", "has a column ER_label already"),
    ):
        source.write_text(text)
        with pytest.raises(ManifestError, match=message):
            score_csv(empathy_scorer, source, out)


def test_a_folder_without_a_scorer_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="which `rellm empathy train` writes last"):
        score_csv(tmp_path, source, tmp_path / "out.csv")


def test_the_report_has_plain_values(empathy_scorer: Path, source: Path, tmp_path: Path) -> None:
    report = asdict(score_csv(empathy_scorer, source, tmp_path / "out.csv"))
    assert report["long_tokens"] == 32
    assert report["levels"]["IP"].keys() == {"mean", "sd", "count"}
