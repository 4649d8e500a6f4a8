"""Training on questions, and the judge's table of three modes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kills import KilledAfter
from openai_server import Server

from rellm_cache.annotation.endpoint import Endpoint
from rellm_cache.cli.commands import rellm
from rellm_cache.config.qa import JudgeSettings, QASettings
from rellm_cache.config.schema import LossesConfig, Recipe, TextConfig
from rellm_cache.corpus.manifest import manifest_files, read_manifest
from rellm_cache.errors import ConfigError, ManifestError, RellmError
from rellm_cache.evaluation.judge import (
    JudgedAnswer,
    judge,
    names_label,
    summarize_judged,
)
from rellm_cache.extraction.run import extract
from rellm_cache.qa.rows import QARow, questions_path, write_rows
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train
from rellm_cache.utils.locks import hold_folder
from rellm_cache.utils.resumable_table import journal_beside, journals_of
from rellm_cache.workers.options import Shard, WorkerOptions
from rellm_cache.workers.shards import hold_results

JUDGE = JudgeSettings(system="Judge.", request="{question} {reference} {answer} 0-{top}?")


def row(clip: str, emotion: str, mode: Any, kind: Any, question: str, answer: str) -> QARow:
    metadata = f"It sounds {emotion}." if mode == "explicit" else ""
    return QARow(clip, mode, kind, 0, question, answer, False, metadata, emotion, "corpus", None,
                 "m", "0", "w", "p", 1, answer)  # fmt: skip


@pytest.fixture
def asking(corpus: Path, cache: Path, quick: Recipe) -> Recipe:
    """A recipe that learns from the questions that now lie beside the corpus."""
    for file in manifest_files(corpus):
        rows = []
        for u in read_manifest(file):
            emotion = u.emotion or ""
            rows.append(row(u.id, emotion, "explicit", "content", "What?", "A tone."))
            rows.append(row(u.id, emotion, "implicit", "content", "What?", "A tone."))
            rows.append(row(u.id, emotion, "implicit", "emotion", "How?", f"It is {emotion}."))
            rows.append(replace(rows[-1], index=1, dropped="refusal"))
        write_rows(questions_path(file), rows)
    return replace(
        quick,
        losses=LossesConfig(response_lm=0.0, emotion_ce=0.0, vad=0.0, qa_lm=1.0),
        qa=QASettings(judge=replace(JUDGE, answer_tokens=4)),
        training=replace(quick.training, epochs=6, learning_rate=3e-3),
    )


def test_explicit_implicit_and_both_are_rows_of_a_table(
    asking: Recipe, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    runs = []
    for mode in ("explicit", "implicit", "both"):
        recipe = replace(asking, qa=replace(asking.qa, mode=mode))
        report = train(recipe, corpus, cache, tmp_path / mode)
        assert report.validation["qa_lm_loss"] < report.untrained["qa_lm_loss"]
        runs.append(tmp_path / mode)
    losses = {r.name: [m.get("qa_lm_loss") for m in read_metrics(r)] for r in runs}
    assert len({str(found) for found in losses.values()}) == 3
    test = corpus / "test.jsonl"
    arguments = ["judge", *map(str, runs), str(test), "--cache", str(cache)]
    shown = CliRunner().invoke(rellm, arguments, catch_exceptions=False).stdout
    for mode in ("explicit", "implicit", "both"):
        assert f"\n  {mode} " in shown
    again = CliRunner().invoke(rellm, [*arguments, "--json"], catch_exceptions=False)
    printed = json.loads(again.stdout.splitlines()[-1])
    assert [p["mode"] for p in printed] == ["explicit", "implicit", "both"]
    for run, scores in zip(runs, printed, strict=True):
        assert scores == json.loads((run / "judged.json").read_text())
        assert scores["overall"]["count"] == 4  # two clips, two questions, whatever their mode
        assert set(scores["types"]) == {"content", "emotion"}
        assert 0 <= scores["overall"]["mean"] <= 5
        assert not journal_beside(run / "judged.jsonl").exists()


def test_a_killed_judge_goes_on_to_the_same_scores(
    asking: Recipe, corpus: Path, cache: Path, tmp_path: Path, killed_after: KilledAfter
) -> None:
    train(
        replace(asking, training=replace(asking.training, epochs=1)), corpus, cache, tmp_path / "r"
    )
    (undisturbed,) = judge([tmp_path / "r"], corpus / "test.jsonl", cache, batch_size=1)
    (tmp_path / "r/judged.jsonl").unlink()
    with killed_after(5) as kept:
        judge([tmp_path / "r"], corpus / "test.jsonl", cache, batch_size=1)
    assert [[*row][2] for row in kept] == ["answer"] * 4 + ["score"]
    (again,) = judge([tmp_path / "r"], corpus / "test.jsonl", cache, batch_size=1)
    assert again.to_json() == undisturbed.to_json()


def test_answers_are_judged_again_only_after_a_change(
    asking: Recipe, corpus: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(asking, training=replace(asking.training, epochs=1))
    run, test = tmp_path / "r", corpus / "test.jsonl"
    train(recipe, corpus, cache, run)
    (first,) = judge([run], test, cache)
    judged = run / "judged.jsonl"
    written = judged.stat().st_mtime_ns
    capsys.readouterr()
    (again,) = judge([run], test, cache)
    assert again.to_json() == first.to_json()
    assert "nothing to do, 4 answers are judged" in capsys.readouterr().err
    assert judged.stat().st_mtime_ns == written
    assert not journal_beside(judged).exists()
    clips = corpus.parent / "audio"
    (clips / "10.wav").write_bytes((clips / "09.wav").read_bytes())
    extract(test, recipe, cache)
    judge([run], test, cache)
    assert "nothing to do" not in capsys.readouterr().err
    file = questions_path(test)
    file.write_text(file.read_text().replace("A tone.", "A sound."))
    judge([run], test, cache)
    assert "nothing to do" not in capsys.readouterr().err
    assert {json.loads(line)["reference"] for line in judged.read_text().splitlines()} >= {
        "A sound."
    }


def test_missing_questions_are_refused_with_the_command(
    asking: Recipe, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    questions_path(corpus / "train.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"train\.questions\.jsonl: no such file; `rellm qa"):
        train(asking, corpus, cache, tmp_path / "run")


def test_a_text_model_is_refused(asking: Recipe, corpus: Path, cache: Path, tmp_path: Path) -> None:
    train(replace(asking, text=TextConfig()), corpus, cache, tmp_path / "reads")
    with pytest.raises(ConfigError, match=r"reads: recipe .* reads text; judge runs of recipes"):
        judge([tmp_path / "reads"], corpus / "test.jsonl", cache)


def judged(score: float, right: bool | None, kind: str = "emotion") -> JudgedAnswer:
    return JudgedAnswer("a", kind, "How?", "Sad.", "Sad.", score, right)


def test_scores_and_label_accuracy_are_correlated() -> None:
    answers = [judged(4.0, True), judged(1.0, False), judged(3.5, True), judged(2.0, False)]
    scores = summarize_judged([*answers, judged(5.0, None, "content")], "run", "both", "m", 5)
    assert scores.accuracy == 0.5
    assert scores.overall.count == 5
    assert scores.types["emotion"].mean == pytest.approx(2.625)
    assert scores.correlation is not None
    assert scores.correlation.value == pytest.approx(0.894, abs=1e-3)  # ties of right and wrong
    alike = summarize_judged([judged(4.0, True), judged(1.0, True)], "run", "both", "m", 5)
    assert alike.to_json()["correlation"] is None
    assert summarize_judged([judged(5.0, None, "content")], "run", "both", "m", 5).accuracy is None


def test_an_answer_is_right_if_it_names_only_the_label() -> None:
    assert names_label("The speaker sounds surprised.", "surprise")
    assert not names_label("Angry or sad.", "sad")
    assert not names_label("Tired.", "sad")
    assert names_label("The speaker sounds sad, in other words low.", "sad")
    assert not names_label("The other speaker sounds tired.", "other")


def test_what_is_too_long_is_dropped(
    asking: Recipe, corpus: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", corpus / "test.jsonl"
    recipe = replace(asking, training=replace(asking.training, epochs=1))
    train(recipe, corpus, cache, run)
    first, second = (u.id for u in read_manifest(file))
    rows = [
        row(first, "sad", "implicit", "content", "Why? " * 900, "No."),  # for the run
        row(first, "sad", "implicit", "content", "What?", "A tone. " * 400),  # for the judge
        row(second, "sad", "implicit", "content", "What?", "A tone."),
    ]
    write_rows(questions_path(file), rows)
    (found,) = judge([run], file, cache)
    assert (found.overall.count, found.dropped) == (1, 2)
    written = [json.loads(line) for line in (run / "judged.jsonl").read_text().splitlines()]
    reasons = [answer.get("dropped", "")[:11] for answer in written]
    assert sorted(reasons) == ["", "the questio", "the request"]
    assert json.loads((run / "judged.json").read_text())["dropped"] == 2
    before = (run / "judged.jsonl").read_bytes()
    capsys.readouterr()
    assert judge([run], file, cache) == [found]
    assert "nothing to do" in capsys.readouterr().err
    assert (run / "judged.jsonl").read_bytes() == before
    write_rows(questions_path(file), rows[:1])
    with pytest.raises(
        ManifestError, match=r"no question has a score; the first, of .*: the question takes"
    ):
        judge([run], file, cache)


@pytest.fixture
def one(asking: Recipe, corpus: Path, cache: Path, tmp_path: Path) -> Path:
    """A run of one epoch."""
    recipe = replace(asking, training=replace(asking.training, epochs=1))
    train(recipe, corpus, cache, tmp_path / "one")
    return tmp_path / "one"


def written_by(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "judged.jsonl").read_text().splitlines()]


def test_a_server_judges_by_the_likelihoods_of_its_first_tokens(
    one: Path, corpus: Path, cache: Path, server: Server
) -> None:
    test = corpus / "test.jsonl"
    (here,) = judge([one], test, cache)
    own = {row["question"] + row["id"]: row for row in written_by(one)}
    assert here.level_share is None
    server.first_tokens = {"5": 0.5, "1": 0.25, "The": 0.25}
    words = ["judge", str(one), str(test), "--cache", str(cache), "--endpoint", server.url]
    shown = CliRunner().invoke(rellm, words, catch_exceptions=False).stdout
    assert "mean score 0 to 5 by tiny" in shown
    assert "the levels have 75.0 % of the likelihood" in shown
    found = json.loads((one / "judged.json").read_text())
    assert (found["judge"], found["level_share"]) == ("tiny", pytest.approx(0.75))
    assert found["overall"]["mean"] == pytest.approx((5 * 0.5 + 1 * 0.25) / 0.75)
    for row in written_by(one):
        before = own[row["question"] + row["id"]]
        assert row["answer"] == before["answer"]  # the run answers here
        assert row["fingerprint"] != before["fingerprint"]
        assert row["level_share"] == pytest.approx(0.75)
    assert server.asked.pop("Hello") == 1  # the trial, before the run answers
    asked = server.asked.total()
    assert asked == len({(r["question"], r["reference"], r["answer"]) for r in own.values()})
    assert {body["messages"][0]["content"] for body in server.bodies[1:]} == {"Judge."}
    judge([one], test, cache, Endpoint(server.url, "tiny", "of/tiny"))
    assert server.asked.total() == asked  # nothing to do
    judge([one], test, cache, Endpoint(server.url, "tiny", "of/other"))
    assert server.asked.total() == 2 * asked


def test_scores_before_a_failure_of_the_server_are_kept(
    one: Path, corpus: Path, cache: Path, server: Server
) -> None:
    test, endpoint = corpus / "test.jsonl", Endpoint(server.url, "tiny", retries=0)
    file = questions_path(test)
    file.write_text(file.read_text().replace("A tone.", "500 always."))
    with pytest.raises(RellmError, match="run the command again to continue"):
        judge([one], test, cache, endpoint, batch_size=1)
    assert not (one / "judged.json").exists()
    failed = [prompt for prompt in server.asked if "500" in prompt]
    server.faults = False
    (found,) = judge([one], test, cache, endpoint)
    assert found.overall.count == 4
    assert {server.asked[prompt] for prompt in server.asked if prompt not in failed} == {1}


def test_a_server_without_likelihoods_or_levels(
    one: Path, corpus: Path, cache: Path, server: Server
) -> None:
    test, endpoint = corpus / "test.jsonl", Endpoint(server.url, "tiny")
    server.first_tokens = {"<think>": 0.9}
    with pytest.raises(ManifestError, match=r"no question has a score.*none of the 1 .* '<think>'"):
        judge([one], test, cache, endpoint)
    server.first_tokens = {}
    with pytest.raises(ConfigError, match=r"have no likelihoods of tokens"):
        judge([one], test, cache, replace(endpoint, model="other"))


def test_workers_with_one_killed_write_what_one_process_writes(
    one: Path, corpus: Path, cache: Path, killed_worker: list[int]
) -> None:
    (alone,) = judge([one], corpus, cache, batch_size=1)
    content = (one / "judged.jsonl").read_bytes()
    (one / "judged.jsonl").unlink()
    (found,) = judge([one], corpus, cache, batch_size=1, options=WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert found.to_json() == alone.to_json()
    assert found.overall.count == 22
    assert (one / "judged.jsonl").read_bytes() == content
    assert journals_of(one / "judged.jsonl") == []


def test_shards_are_joined_by_the_last_one(
    one: Path,
    corpus: Path,
    cache: Path,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    runs, endpoint = [one, other], Endpoint(server.url, "tiny")
    alone = [found.to_json() for found in judge(runs, corpus, cache, endpoint, 1)]
    contents = [(run / "judged.jsonl").read_bytes() for run in runs]
    for run in runs:
        (run / "judged.jsonl").unlink()
    asked = server.asked.copy()
    shards = [WorkerOptions(shard=Shard(number, 2)) for number in (2, 1)]
    assert judge(runs, corpus, cache, endpoint, 1, shards[0]) == []
    clips = [u.id for file in manifest_files(corpus) for u in read_manifest(file)]
    left = 2 * sum(shards[1].takes(clip) for clip in clips)
    told = capsys.readouterr().err
    for run in runs:
        assert f"{run}/judged.jsonl: {left} questions remain, of shard 1/2" in told
        assert not (run / "judged.jsonl").exists()
    assert [
        found.to_json() for found in judge(runs, corpus, cache, endpoint, 1, shards[1])
    ] == alone
    assert [(run / "judged.jsonl").read_bytes() for run in runs] == contents
    assert not any(journals_of(run / "judged.jsonl") for run in runs)
    assert server.asked.keys() == asked.keys()


def test_a_shard_and_a_command_for_all_refuse_each_other(
    one: Path, corpus: Path, cache: Path
) -> None:
    options = WorkerOptions(shard=Shard(1, 2))
    judged = one / "judged.jsonl"
    with (
        hold_results(judged, Shard(2, 2)),
        pytest.raises(RellmError, match=r"one: process \d+ on .* is writing it"),
    ):
        judge([one], corpus, cache)
    with (
        hold_results(judged, Shard(1, 2)),
        pytest.raises(RellmError, match=r"part-1-of-2.journal: process \d+ on .* is writing it"),
    ):
        judge([one], corpus, cache, options=options)


def test_one_writer_of_a_run(asking: Recipe, corpus: Path, cache: Path, tmp_path: Path) -> None:
    recipe = replace(asking, training=replace(asking.training, epochs=1))
    train(recipe, corpus, cache, tmp_path / "run")
    with hold_folder(tmp_path / "run"), pytest.raises(RellmError, match=r"run: process \d+ on .*"):
        judge([tmp_path / "run"], corpus / "test.jsonl", cache)
    assert not (tmp_path / "run" / "judged.json").exists()
