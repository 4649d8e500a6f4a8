"""Overwriting: no command replaces its input or what another one made; outputs have one writer."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_ids import link_models
from processes import fork, kill, wait

from rellm_cache.annotation.pseudo_dimensions import annotate
from rellm_cache.annotation.questions import write_questions
from rellm_cache.annotation.responses import respond
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifest, responses_path
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.empathy.scoring import score_csv
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.training import train_empathy
from rellm_cache.errors import ConfigError, RellmError, RunError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.qa.rows import questions_path
from rellm_cache.reproduction.folds import Source
from rellm_cache.reproduction.prepare import Request
from rellm_cache.reproduction.table1 import reproduce
from rellm_cache.runs.publish import publish
from rellm_cache.runs.weights import run_recipe
from rellm_cache.training.run import train
from rellm_cache.utils.locks import hold_file, hold_folder

NO_SAMPLES = EvaluationOptions(samples=0, in_words=False)


@pytest.fixture
def run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    """A run of one epoch that can answer."""
    training = replace(quick.training, epochs=1)
    train(replace(quick, training=training), corpus, cache, tmp_path / "run")
    return tmp_path / "run"


def test_answers_replace_only_answers(run: Path, corpus: Path, cache: Path, tmp_path: Path) -> None:
    test = corpus / "test.jsonl"
    evaluate(run, test, cache, NO_SAMPLES)
    link = tmp_path / "link.jsonl"
    link.symlink_to(test)
    notes = tmp_path / "notes.md"
    notes.write_text("# Notes\n")
    others = (
        notes, test, link, corpus / "train.jsonl", responses_path(test), run / "metrics.jsonl",
        run / "evaluated.jsonl",
    )  # fmt: skip
    for out in others:
        before = out.read_bytes()
        with pytest.raises(RellmError, match=rf"{out.name}: is .*--overwrite"):
            generate(run, test, out, cache)
        assert out.read_bytes() == before
    answers = generate(run, test, tmp_path / "answers.jsonl", cache)
    assert generate(run, test, tmp_path / "answers.jsonl", cache) == answers
    assert generate(run, test, test, cache, overwrite=True) == answers
    assert [u.id for u in read_manifest(test)] == [a.id for a in answers]
    # One writer at a time.
    with hold_file(tmp_path / "answers.jsonl"), pytest.raises(RellmError, match="is writing it"):
        generate(run, test, tmp_path / "answers.jsonl", cache)
    with hold_folder(run), pytest.raises(RellmError, match=r"run: process .* is writing it"):
        evaluate(run, test, cache, NO_SAMPLES)
    with hold_folder(run), pytest.raises(RellmError, match=r"run: process .* is writing it"):
        train(run_recipe(run), corpus, cache, run)


def test_scores_and_weights_stay(run: Path, corpus: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "scores.json").write_text("{}")
    with pytest.raises(RellmError, match=r"scores\.json: is there already, and is not of `rellm e"):
        evaluate(run, corpus / "test.jsonl", cache, NO_SAMPLES, out)
    recipe = run_recipe(run)
    again = replace(recipe, training=replace(recipe.training, init_from=str(run)))
    with pytest.raises(RunError, match="training starts from the weights in this folder"):
        train(again, corpus, cache, run)


def test_manifests_stay(corpus: Path, tmp_path: Path) -> None:
    test = read_manifest(corpus / "test.jsonl")
    one, other = (Corpus(name, test, "mine") for name in ("one", "other"))
    out = tmp_path / "prepared"
    prepare(one, out)
    prepare(one, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def refused(folder: Path, found: Corpus, match: str) -> None:
        with pytest.raises(RellmError, match=match):
            prepare(found, folder)

    refused(out, other, r"is not the manifest of corpus 'other', but of 'one'; .*--overwrite")
    (out / "annotations.json").write_text("{}")
    refused(out, one, r"annotations\.json: is there already")
    (out / "annotations.json").unlink()
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    prepare(other, out, overwrite=True)
    refused(corpus, one, r"jsonl: is there already, and is not a manifest of `rellm prepare`")
    table = corpus / "train.jsonl"
    refused(corpus, read_table(table), r"train\.jsonl: is an input")
    with hold_folder(out), pytest.raises(RellmError, match="is writing it"):
        prepare(other, out)


def test_responses_of_others_stay(corpus: Path, cache: Path, quick: Recipe) -> None:
    path = responses_path(corpus / "test.jsonl")  # written by hand, see the fixture
    before = path.read_bytes()
    with pytest.raises(RellmError, match=r"responses\.jsonl: is there already, .*--overwrite"):
        respond(corpus, quick)
    assert path.read_bytes() == before
    respond(corpus / "test.jsonl", quick, overwrite=True)
    respond(corpus / "test.jsonl", quick)
    assert all("fingerprint" in json.loads(line) for line in path.read_text().splitlines())
    with hold_file(path), pytest.raises(RellmError, match="is writing it"):
        respond(corpus / "test.jsonl", quick)


def test_tables_and_scorers_stay(
    empathy_scorer: Path, epitome_folder: Path, text_encoder_folder: Path, tmp_path: Path
) -> None:
    source, other = tmp_path / "replies.csv", tmp_path / "other.csv"
    source.write_text("seeker_post,response_post\nI lost it,So sorry\n")
    other.write_text("a,b\n1,2\n")
    for out in (source, other):
        before = out.read_bytes()
        with pytest.raises(RellmError, match=rf"{out.name}: is .*--overwrite"):
            score_csv(empathy_scorer, source, out)
        assert out.read_bytes() == before
    score_csv(empathy_scorer, source, other, overwrite=True)
    assert score_csv(empathy_scorer, source, other).rows == 1
    settings = EmpathySettings(encoder=str(text_encoder_folder), tokens=8, long_tokens=32)
    with pytest.raises(RunError, match="is not empty and is no scorer"):
        train_empathy(epitome_folder, epitome_folder, settings)


EMPTY: dict[str, Callable[[dict[str, object]], dict[str, object]]] = {
    "ua": lambda row: {**row, "emotion": None},
    "loss": lambda row: {**row, "emotion": None, "vad": None, "vad_source": None},
}


@pytest.mark.parametrize("metric", EMPTY)
def test_a_metric_without_labels_is_an_error_at_the_start(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, metric: str
) -> None:
    file = corpus / "validation.jsonl"
    rows = [EMPTY[metric](json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = replace(speech_recipe.training, best_metric=metric)
    with pytest.raises(
        ConfigError, match=rf'no clip has emotions.*best_metric = "{metric}" has no'
    ):
        train(replace(speech_recipe, training=training), corpus, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_command_names_the_process_of_the_first(
    run: Path,
    corpus: Path,
    cache: Path,
    quick: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A child holds each output; the command in this process ends and names it."""
    table = Request(Source("iemocap", tmp_path), tmp_path / "table1", cache)
    ids = link_models(quick, tmp_path / "models", monkeypatch)
    commands: dict[Path, tuple[Any, Callable[[], object]]] = {
        questions_path(corpus / "train.jsonl"): (hold_file, lambda: write_questions(corpus, quick)),
        corpus: (hold_folder, lambda: annotate(corpus, quick, cache)),
        tmp_path / "table1": (hold_folder, lambda: reproduce(table)),
        tmp_path / "public": (hold_file, lambda: publish(run, tmp_path / "public", ids, True)),
    }
    for out, (hold, call) in commands.items():

        def work(out: Path = out, hold: Any = hold) -> None:
            with hold(out):
                (tmp_path / "held").touch()
                time.sleep(60)

        pid = fork(work, tmp_path / "log")
        while not (tmp_path / "held").exists():
            assert wait(pid, 0.01) is None, (tmp_path / "log").read_text()
        with pytest.raises(RellmError, match=rf"{out.name}: process {pid} on .* is writing it"):
            call()
        kill(pid)
        (tmp_path / "held").unlink()
    assert annotate(corpus, quick, cache).filled == 1  # a killed process holds nothing
