"""evaluate: scores by heads and LLM, their files, and the report."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from kills import KilledAfter
from old_recipes import EDITION_1, with_new_names
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rellm_cache.cli.commands import rellm
from rellm_cache.cli.evaluate import print_empathy
from rellm_cache.config.schema import Recipe, TextConfig
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.errors import ConfigError, JournalError, ManifestError, RunError
from rellm_cache.evaluation import predictions
from rellm_cache.evaluation.prediction_task import PredictionTask
from rellm_cache.evaluation.report import HEIGHT, charts
from rellm_cache.evaluation.run import (
    EvaluationOptions,
    choose_samples,
    evaluate,
    evaluate_by_workers,
)
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.inference.responders import SpeechResponder
from rellm_cache.metrics.classification import score_recognition
from rellm_cache.metrics.replies import word_count
from rellm_cache.model.losses.registry import OURS
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.training import validation
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import record
from rellm_cache.utils.resumable_table import journal_beside, journals_of
from rellm_cache.workers.options import Shard, WorkerOptions


@pytest.fixture
def run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    train(quick, corpus, cache, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def heads(quick: Recipe) -> Recipe:
    """One epoch of the heads, without an LLM."""
    losses = replace(quick.losses, response_lm=0.0, emotion_lm=0.0)
    adapter = replace(quick.adapter, output_size=32)
    training = replace(quick.training, epochs=1)
    return replace(quick, llm=None, losses=losses, adapter=adapter, training=training)


class Page(HTMLParser):
    """Collects what a reader would get: sounds, curves, links to anything outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sounds: list[str] = []
        self.curves = 0
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.curves += tag == "polyline"
        for key in ("src", "href"):
            value = values.get(key)
            if value and tag == "audio":
                self.sounds.append(value)
            if value and not value.startswith(("data:", "#")):
                self.outside.append(value)


def test_scores_and_page(run: Path, corpus: Path, tmp_path: Path) -> None:
    scores = evaluate(run, corpus, tmp_path / "cache", EvaluationOptions(3))
    assert scores.clips == 11
    assert scores.llm is not None
    assert scores.head.recognition is not None
    assert scores.head.recognition.count == scores.llm.likelihood.count == 11
    assert set(scores.head.ccc) == {"arousal", "dominance", "valence"}
    for name, (low, high) in scores.ccc_intervals.items():
        assert -1 <= low <= scores.head.ccc[name] <= high <= 1
    written = json.loads((run / "scores.json").read_text())
    assert written.pop("manifest") == str(corpus)
    assert written == json.loads(json.dumps(scores.to_json()))
    with (run / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    for column, part in (("head", scores.head.recognition), ("llm", scores.llm.likelihood)):
        right = sum(row[column] == row["emotion"] for row in predicted)
        assert right / 11 == pytest.approx(part.accuracy)
    unparsable = sum(not row["llm_in_words"] for row in predicted) / 11
    assert unparsable == pytest.approx(scores.llm.unparsable)
    page = Page((run / "report.html").read_text())
    assert len(page.sounds) == 3
    assert all(s.startswith("data:audio/wav;base64,UklGR") for s in page.sounds)
    assert page.curves >= 8  # four losses and their total, training and validation, and UA
    assert page.outside == []


def test_scores_of_another_manifest_are_not_replaced_by_accident(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    run, scores = tmp_path / "heads", tmp_path / "heads" / "scores.json"
    train(heads, corpus, cache, run)
    test, validation = corpus / "test.jsonl", corpus / "validation.jsonl"
    evaluate(run, test, cache)
    before = scores.read_text()
    message = rf"scores\.json: holds the scores of {test}, and those of {validation} would replace"
    with pytest.raises(RunError, match=message):
        evaluate(run, validation, cache)
    assert scores.read_text() == before
    evaluate(run, validation, cache, out=tmp_path / "scored")
    evaluate(run, validation, cache, EvaluationOptions(overwrite=True))
    assert json.loads(scores.read_text())["manifest"] == str(validation)
    validation.write_text(validation.read_text().splitlines()[0] + "\n")
    assert evaluate(run, validation, cache).clips == 1  # the same manifest, changed
    moved = validation.rename(corpus / "moved.jsonl")
    evaluate(run, moved, cache)  # the same clips elsewhere

    unnamed = {k: v for k, v in json.loads(before).items() if k != "manifest"}  # as of rellm 0.1
    scores.write_text(json.dumps(unnamed))
    with pytest.raises(RunError, match="the scores of another manifest of 2 clips"):
        evaluate(run, moved, cache)
    evaluate(run, test, cache)
    scores.write_text("{")
    evaluate(run, moved, cache)


def test_json_on_standard_output(run: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(run), str(corpus), "--cache", str(tmp_path / "cache"), "--json"]
    result = CliRunner().invoke(rellm, [*arguments, "--samples", "0"], catch_exceptions=False)
    printed = json.loads(result.stdout)
    for part in ("head", "llm"):
        assert 0 <= printed[part]["ua"] <= 1
        assert len(printed[part]["confusion"]) == 5
    assert {"ua", "accuracy", "recalls"} <= set(printed["llm"]["generation"])
    assert 0 <= printed["llm"]["unparsable"] <= 1


def test_empathy_of_every_answer(
    run: Path, corpus: Path, tmp_path: Path, empathy_scorer: Path
) -> None:
    scores = evaluate(run, corpus, tmp_path / "cache", EvaluationOptions(0, empathy=empathy_scorer))
    answers = generate(run, corpus, tmp_path / "answers.jsonl", tmp_path / "cache")
    empathy = scores.empathy
    assert empathy is not None
    assert empathy.count == len(answers) == 11
    assert empathy.words.mean == pytest.approx(np.mean([word_count(a.response) for a in answers]))
    assert empathy.questions.count == 11
    total = empathy.levels["ER"].mean + empathy.levels["EX"].mean
    assert empathy.levels["ER + EX"].mean == pytest.approx(total)
    written = json.loads((run / "scores.json").read_text())
    assert written["empathy"]["levels"].keys() == {"ER", "IP", "EX", "ER + EX"}
    result = CliRunner().invoke(
        rellm,
        ["evaluate", str(run), str(corpus), "--cache", str(tmp_path / "cache"), "--samples", "0",
         "--empathy", str(empathy_scorer)],
        catch_exceptions=False,
    )  # fmt: skip
    assert "Empathy of 11 answers" in result.stdout
    assert str(empathy.levels["ER + EX"]) in result.stdout


def test_one_answer_has_a_mean_and_no_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"mean": 2.0, "sd": None, "count": 1}
    print_empathy(
        {"count": 1, "replies_cut": 0, "levels": {"ER": one}, "long_levels": {"ER": one},
         "words": one, "questions": one}
    )  # fmt: skip
    assert capsys.readouterr().out.count("2.000") == 4


def test_predictions_are_made_again_only_after_a_change(
    run: Path,
    corpus: Path,
    quick: Recipe,
    tmp_path: Path,
    empathy_scorer: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    test, cache, kept = corpus / "test.jsonl", tmp_path / "cache", run / "evaluated.jsonl"
    scorer = shutil.copytree(empathy_scorer, tmp_path / "scorer")

    def again(asked: EvaluationOptions) -> list[dict[str, Any]]:
        """Both clips after another evaluation."""
        capsys.readouterr()
        evaluate(run, test, cache, asked)
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
        assert [row["id"] for row in rows] == ["tones/09", "tones/10", ""]
        assert not journal_beside(kept).exists()
        return rows[:2]

    def mark() -> None:
        """Let the run have said what it never says, to see of what it is asked again."""
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
        for row in rows[:2]:
            row |= {"head": "sad", "named": "sad"}
            row["answer"] = {**row["answer"], "response": "kept"}
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
        record(run, [kept.name])

    with monkeypatch.context() as unloadable:
        assert not any("named" in row for row in again(EvaluationOptions(0, in_words=False)))
        first = again(EvaluationOptions(2))
        written = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()}
        del written[run / "results.sha256"]
        unloadable.setattr(AutoModelForCausalLM, "from_pretrained", None)
        assert again(EvaluationOptions(2)) == first
        assert f"{run}: nothing to do, 2 clips are scored" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in written} == written
        again(EvaluationOptions(0))  # another page, of the same answers
        assert "nothing to do" not in capsys.readouterr().err

    mark()
    told = again(EvaluationOptions(1, empathy=scorer))  # a scorer reads what was answered before
    assert [(r["head"], r["named"], r["answer"]["response"]) for r in told] == [
        ("sad", "sad", "kept")
    ] * 2
    (scorer / "empathy.json").write_text((scorer / "empathy.json").read_text() + "\n")
    record(scorer, ["empathy.json"])
    rescored = again(EvaluationOptions(1, empathy=scorer))
    for row, before in zip(rescored, told, strict=True):
        assert row["empathy"]["levels"] == before["empathy"]["levels"]
        assert row["empathy"]["fingerprint"] != before["empathy"]["fingerprint"]
        assert row["answer"] == before["answer"]

    test.write_text(
        test.read_text().replace('"surprise"', '"happy"')
    )  # other losses, no other words
    assert [(r["head"], r["named"]) for r in again(EvaluationOptions(1))] == [
        (r["head"], "sad") for r in first
    ]
    clips = corpus.parent / "audio"
    (clips / "10.wav").write_bytes((clips / "09.wav").read_bytes())
    extract(test, quick, cache)
    assert [row["named"] for row in again(EvaluationOptions(1))] == ["sad", first[0]["named"]]
    weights = load_file(run / "adapter.safetensors")
    save_file(
        {n: t * 0.5 for n, t in weights.items()}, run / "adapter.safetensors", {"format": "pt"}
    )
    record(run, ["adapter.safetensors"])
    assert not {row["fingerprint"] for row in again(EvaluationOptions(1))} & {
        row["fingerprint"] for row in first
    }
    last = again(EvaluationOptions(1))
    assert "nothing to do" in capsys.readouterr().err
    kept.write_text(kept.read_text().partition("\n")[2])  # as an error about a line says
    record(run, [kept.name])
    assert [row["named"] for row in again(EvaluationOptions(1))] == [row["named"] for row in last]


def test_a_killed_call_goes_on_to_the_same_scores(
    run: Path, corpus: Path, tmp_path: Path, empathy_scorer: Path, killed_after: KilledAfter
) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    resources, asked = SharedModels(), EvaluationOptions(0, empathy=empathy_scorer)

    def score(out: Path) -> None:
        evaluate(run, corpus / "test.jsonl", tmp_path / "cache", asked, out, resources)

    score(whole)
    for kept in (
        ["head", "head"],  # of two clips, but no losses: begun again
        ["head", "head", "losses", "likely"],
        ["likely", "answer"],
        ["answer", "empathy"],
        [],  # and one that is left
    ):
        with killed_after(len(kept)) as rows:
            score(out)
        assert [[*row][2] for row in rows] == kept
        assert not (out / "scores.json").exists()
    score(out)
    for name in ("scores.json", "predictions.csv", "report.html"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def assert_same_results(out: Path, whole: Path) -> None:
    """Two evaluations wrote the same; numbers are equal up to rounding."""

    def read(folder: Path) -> tuple[list[Any], list[float]]:
        numbers: list[float] = []

        def keep(digits: str) -> str:
            numbers.append(float(digits))
            return "a number"

        scores = json.loads((folder / "scores.json").read_text(), parse_float=keep)
        lines = (folder / "evaluated.jsonl").read_text().splitlines()
        rows = [json.loads(line, parse_float=keep) for line in lines]
        assert all([*row] == [n for n in predictions.FIELDS if n in row] for row in rows)
        return [scores, *rows], numbers

    (found, numbers), (expected, others) = read(out), read(whole)
    assert found == expected
    assert numbers == pytest.approx(others, abs=1e-4)


def test_workers_with_one_killed_write_what_one_process_writes(
    run: Path,
    corpus: Path,
    tmp_path: Path,
    empathy_scorer: Path,
    killed_worker: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (predictions, validation):
        monkeypatch.setattr(module, "BATCH", 2)
    cache, out, whole = tmp_path / "cache", tmp_path / "out", tmp_path / "whole"
    asked = EvaluationOptions(2, empathy=empathy_scorer, calibrate=True)
    alone = evaluate(run, corpus, cache, asked, whole)
    found = evaluate_by_workers(run, corpus, cache, asked, out, WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert found is not None
    assert found.to_json() == alone.to_json()
    assert_same_results(out, whole)
    assert journals_of(out / "evaluated.jsonl") == []


def test_the_rows_of_killed_workers_and_of_a_killed_command_are_kept(
    run: Path, corpus: Path, tmp_path: Path, killed_after: KilledAfter, monkeypatch: Any
) -> None:
    for module in (predictions, validation):
        monkeypatch.setattr(module, "BATCH", 2)
    cache, out, whole = tmp_path / "cache", tmp_path / "out", tmp_path / "whole"
    asked, two = EvaluationOptions(2), WorkerOptions(workers=2)
    evaluate(run, corpus, cache, asked, whole)
    with killed_after(4) as rows:
        evaluate_by_workers(run, corpus, cache, asked, out, two)
    assert len(rows) == 4
    assert not (out / "scores.json").exists()
    evaluate(run, corpus, cache, asked, out)  # goes on, in one process
    assert_same_results(out, whole)


def test_the_last_shard_scores_what_all_have_made(
    run: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (predictions, validation):
        monkeypatch.setattr(module, "BATCH", 2)
    cache, out, whole = tmp_path / "cache", tmp_path / "out", tmp_path / "whole"
    asked = EvaluationOptions(0, export="jsonl")
    evaluate(run, corpus, cache, asked, whole)
    shards = [WorkerOptions(shard=Shard(number, 2)) for number in (2, 1)]
    assert evaluate_by_workers(run, corpus, cache, asked, out, shards[0]) is None
    left = sum(shards[1].takes(u.id) for u in read_manifests(corpus))
    assert f"evaluated.jsonl: {left} clips remain, of shard 1/2" in capsys.readouterr().err
    assert not (out / "scores.json").exists()
    with monkeypatch.context() as patch:
        own = [u.id for u in read_manifests(corpus) if shards[0].takes(u.id)]
        patch.setattr(PredictionTask, "made_by", only_others(PredictionTask.made_by, own))
        found = evaluate_by_workers(run, corpus, cache, asked, out, shards[1])
    assert found is not None
    assert_same_results(out, whole)
    assert journals_of(out / "evaluated.jsonl") == []


def only_others(made_by: Any, known: list[str]) -> Any:
    """A `made_by` that refuses clips which have been made."""

    def checked(task: PredictionTask, model: Any) -> Any:
        def make(asked: Any) -> Any:
            assert not {clip.utterance.id for batch in asked for clip in batch.clips} & {*known}
            return made_by(task, model)(asked)

        return make

    return checked


def test_a_text_model_and_a_run_without_llm_by_shards(
    corpus: Path, quick: Recipe, heads: Recipe, cache: Path, tmp_path: Path
) -> None:
    reads = replace(quick, text=TextConfig())
    for name, recipe, count in (("reads", reads, 2), ("heads", heads, 16)):  # some have no clip
        train(recipe, corpus, cache, tmp_path / name)
        run, out, whole = tmp_path / name, tmp_path / f"{name}-out", tmp_path / f"{name}-whole"
        alone = evaluate(run, corpus, cache, EvaluationOptions(0), whole)
        shards = [WorkerOptions(shard=Shard(number, count)) for number in range(1, count + 1)]
        found = [
            evaluate_by_workers(run, corpus, cache, EvaluationOptions(0), out, shard)
            for shard in shards
        ]
        assert found[0] is None
        assert found[-1] is not None
        assert found[-1].llm == alone.llm
        assert_same_results(out, whole)


def test_shards_of_the_command(corpus: Path, cache: Path, heads: Recipe, tmp_path: Path) -> None:
    train(heads, corpus, cache, tmp_path / "heads")
    words = ["evaluate", str(tmp_path / "heads"), str(corpus), "--cache", str(cache), "--shard"]
    first, last = (CliRunner().invoke(rellm, [*words, shard]) for shard in ("1/2", "2/2"))
    assert (first.exit_code, first.stdout) == (0, "")
    assert re.search(r"evaluated\.jsonl: \d+ clips remain, of shard 2/2", first.stderr)
    assert (last.exit_code, "Scores: " in last.stdout) == (0, True)
    again = CliRunner().invoke(rellm, [*words[:-1]])
    assert "nothing to do, 11 clips are scored" in again.stderr


def test_clips_that_are_too_long_are_dropped_by_workers_too(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeechResponder, "too_long", lambda _, us: {u.id: "long" for u in us[1:]})
    asked, shard = EvaluationOptions(1), WorkerOptions(shard=Shard(1, 1))
    cache, out = tmp_path / "cache", tmp_path / "out"
    found = evaluate_by_workers(run, corpus / "test.jsonl", cache, asked, out, shard)
    assert found is not None
    assert found.head.recognition is not None
    assert found.head.recognition.count == 1
    assert [*json.loads((out / "scores.json").read_text())["dropped"].values()] == ["long"]


def test_errors_are_raised_before_anything_is_predicted(
    run: Path, corpus: Path, tmp_path: Path, empathy_scorer: Path
) -> None:
    test, cache = corpus / "test.jsonl", tmp_path / "cache"
    with pytest.raises(RunError, match="not the folder of a trained empathy scorer"):
        evaluate(run, test, cache, EvaluationOptions(empathy=corpus))
    other = tmp_path / "other"
    shutil.copytree(run, other)
    with pytest.raises(RunError, match=r"other: is the folder of another run.* --out"):
        evaluate(run, test, cache, out=other)
    (other / "evaluated.jsonl").write_text("5\n")
    with pytest.raises(JournalError, match=r"evaluated\.jsonl:1: .*remove this line"):
        evaluate(other, test, cache)
    (other / "adapter.safetensors").unlink()
    with pytest.raises(RunError, match=r"adapter\.safetensors: is missing; .*rellm train"):
        evaluate(other, test, cache)
    assert not (run / "evaluated.jsonl").exists()


def test_a_run_without_llm_gives_no_answers_to_score(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, empathy_scorer: Path
) -> None:
    run, cache = tmp_path / "heads", tmp_path / "cache"
    extract(corpus, speech_recipe, cache)
    train(speech_recipe, corpus, cache, run)
    refused = {
        "answers to score for empathy": EvaluationOptions(empathy=empathy_scorer),
        "answers to export": EvaluationOptions(export="jsonl"),
        "labels of an LLM to average or calibrate": EvaluationOptions(calibrate=True),
    }
    for needed, options in refused.items():
        with pytest.raises(ConfigError, match=f"has no LLM, so there are no {needed}; leave that"):
            evaluate(run, corpus / "test.jsonl", cache, options)
    scores = evaluate(run, corpus / "test.jsonl", cache)
    assert scores.llm is None
    assert evaluate(run, corpus / "test.jsonl", cache).to_json() == scores.to_json()


def test_empathy_needs_transcripts(
    run: Path, corpus: Path, tmp_path: Path, empathy_scorer: Path
) -> None:
    silent = tmp_path / "silent.jsonl"
    rows = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    silent.write_text("".join(json.dumps({**row, "text": ""}) + "\n" for row in rows))
    with pytest.raises(ManifestError, match=r"silent\.jsonl: no utterance has a transcript"):
        evaluate(run, silent, tmp_path / "cache", EvaluationOptions(0, empathy=empathy_scorer))
    assert not journal_beside(run / "evaluated.jsonl").exists()


def test_a_sample_without_audio_says_so(run: Path, corpus: Path, tmp_path: Path) -> None:
    for clip in (corpus.parent / "audio").iterdir():
        clip.unlink()
    evaluate(run, corpus / "test.jsonl", tmp_path / "cache", EvaluationOptions(1))
    assert "Cannot be played" in (run / "report.html").read_text()


def test_unparsable_answers_are_wrong_not_left_out() -> None:
    true, predicted = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])
    scores = score_recognition(true, predicted, ("sad", "happy"))
    assert scores.ua == pytest.approx((0.5 + 1) / 2)
    assert scores.confusion == [[1, 0, 1], [0, 2, 0]]


def test_samples_are_spread_over_emotions_and_stay_the_same() -> None:
    utterances = [Utterance(str(i), "x", emotion=("sad", "happy")[i % 2]) for i in range(10)]
    chosen = choose_samples(utterances, 4)
    assert len({u.id for u in chosen}) == 4
    assert sorted(u.emotion or "" for u in chosen) == ["happy", "happy", "sad", "sad"]
    assert chosen == choose_samples(utterances, 4)
    assert len(choose_samples(utterances[:2], 6)) == 2
    alike = [replace(u, emotion=None) for u in utterances]
    assert len({u.id for u in choose_samples(alike, 6)}) == 6


def test_charts_are_drawn_within_their_box() -> None:
    rows = [{"step": i, "loss": 3.0 - i} for i in range(3)]
    (chart,) = charts([*rows, {"step": 2, "validation": {"loss": 2.5}}])
    (training, validation) = chart.lines
    points = [tuple(map(float, p.split(","))) for p in training.points.split()]
    assert points[0][1] < points[1][1] < points[2][1]  # falling: larger y lies lower
    assert training.last == "1"
    assert validation.last == "2.5"


def test_every_loss_of_a_run_has_a_chart() -> None:
    losses = [f"{name}_loss" for name in OURS]
    rows = [{"step": i, "loss": 1.0, "ua": 0.5, **dict.fromkeys(losses, 1.0)} for i in range(2)]
    drawn = charts(rows)
    assert len(drawn) == len(OURS) + 2
    assert all(0 <= place <= HEIGHT for chart in drawn for place, _ in chart.ticks)  # flat ones too


def test_charts_have_a_gap_where_a_value_was_not_finite() -> None:
    rows = [{"step": i, "loss": 2.0, "vad_loss": None if i == 1 else 1.0} for i in range(3)]
    rows.append({"step": 2, "validation": {"loss": None, "ua": None}})
    total, vad = charts(rows)
    assert [line.name for line in total.lines] == ["training"]
    assert len(vad.lines[0].points.split()) == 2


def test_a_large_constant_is_drawn() -> None:
    (chart,) = charts([{"step": i, "loss": 2**60} for i in range(3)])
    assert all(0 <= place <= HEIGHT for place, _ in chart.ticks)


def test_a_run_and_a_cache_of_rellm_0_1_give_the_scores_of_then(tmp_path: Path) -> None:
    def scores(folder: Path) -> Any:
        text = (folder / "scores.json").read_text("utf-8")
        return json.loads(text, parse_float=lambda digits: round(float(digits), 4))

    run = tmp_path / "run"
    shutil.copytree(EDITION_1 / "runs" / "heads", run)
    recipe = (run / "recipe.toml").read_text("utf-8")
    (run / "recipe.toml").write_text(with_new_names(recipe), "utf-8")
    record(run, ["recipe.toml"])
    test, options = EDITION_1 / "manifest" / "test.jsonl", EvaluationOptions(samples=0)
    evaluate(run, test, EDITION_1 / "cache", options, tmp_path / "scored")
    before, after = scores(run), scores(tmp_path / "scored")
    assert after.pop("manifest") == str(test)
    losses = before.pop("losses")
    assert after.pop("losses") == {"emotion_ce": losses["category"], "vad": losses["dimension"]}
    low, high = after["head"].pop("ua_interval")  # newer
    assert low <= before["head"]["ua"] <= high
    assert after == before
