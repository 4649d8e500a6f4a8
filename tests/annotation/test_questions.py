"""qa: equal requests are asked once, rows name their sources, a kill loses no rows."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import KilledAfter

from rellm_cache.annotation.questions import (
    UNPARSABLE,
    QAReport,
    QuestionWriter,
    write_questions,
)
from rellm_cache.config.qa import GivenQuestions, QASettings, QAType
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import read_manifest, write_lines
from rellm_cache.errors import ConfigError
from rellm_cache.llm.loading import find_llm, load_llm
from rellm_cache.qa.prompts import write_request
from rellm_cache.qa.rows import questions_path, read_questions, read_rows
from rellm_cache.utils.model_files import weights_digest
from rellm_cache.utils.resumable_table import Journal, journal_beside, journals_of
from rellm_cache.workers.options import Shard, WorkerOptions

ROWS: list[dict[str, Any]] = [
    {"id": "a", "audio": "a.wav", "text": "I lost my keys.", "emotion": "sad"},
    {"id": "b", "audio": "b.wav", "text": "I lost my keys.", "emotion": "sad"},
    {"id": "c", "audio": "c.wav", "text": "We won!", "emotion": "happy", "vad": [0.9, 0.5, 0.8]},
    {"id": "d", "audio": "d.wav", "text": "No feeling."},
    {"id": "e", "audio": "e.wav", "emotion": "neutral"},
]
GIVEN = GivenQuestions("What?", "How does it sound?", "Why?", "What do you reply?")
SHORT = QASettings(system="Write.", tokens=4, questions=GIVEN, answerable=1.0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_lines(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


@pytest.fixture
def given(quick: Recipe) -> Recipe:
    """The tiny recipe with short requests."""
    return replace(quick, qa=SHORT)


def run(manifest: Path, recipe: Recipe, batch_size: int = 4) -> QAReport:
    (report,) = write_questions(manifest, recipe, batch_size)
    return report


def journal(manifest: Path) -> Path:
    return journal_beside(questions_path(manifest))


def writer_of(recipe: Recipe, weights: str) -> QuestionWriter:
    llm = recipe.require_llm()
    settings = (recipe.qa, recipe.prompts, recipe.heads.emotions)
    return QuestionWriter(llm, *settings, weights, partial(load_llm, llm, torch.device("cpu")))


def told(
    manifest: Path,
    recipe: Recipe,
    utterance: Any,
    replies: dict[QAType, str],
    early_stop: bool = False,
) -> None:
    """Put words into the writer's mouth, as an interrupted run leaves them."""
    assert recipe.llm is not None
    writer = writer_of(recipe, weights_digest(find_llm(recipe.llm))).fingerprint
    with Journal(journal(manifest)) as notes:
        for kind, text in replies.items():
            prompt = digest(write_request(utterance, kind, recipe.qa).user)
            notes.append(
                {"writer": writer, "prompt": prompt, "text": text, "early_stop": early_stop}
            )


def test_rows_of_both_modes(manifest: Path, given: Recipe) -> None:
    report = run(manifest, given)
    assert report.path == manifest.with_name("train.questions.jsonl")
    assert report.asked == 2 * 4 + 2  # two utterances that differ; two transcripts are guessed
    assert report.skipped == {"no emotion": 1, "no transcript": 1}
    rows = read_rows(report.path)
    assert len(rows) == 3 * (3 + 4)  # explicit rows have no emotion questions
    assert sum(report.kept.values()) + sum(report.dropped.values()) == len(rows)
    for row in rows:
        assert bool(row.metadata) == (row.mode == "explicit")
        assert (row.guess is not None) == (row.type == "emotion")
        assert row.guess is None or sum(row.guess.values()) == pytest.approx(1)
        assert len(row.prompt) == len(row.weights) == 64
        assert row.label_source == "corpus"
        assert row.vad_source == ("human" if row.id == "c" else None)
    twins = [[replace(r, id="") for r in rows if r.id == name] for name in ("a", "b")]
    assert twins[0] == twins[1]
    assert not journal(manifest).exists()


def test_a_second_run_and_other_filters_ask_nothing(manifest: Path, given: Recipe) -> None:
    first = run(manifest, given)
    text = first.path.read_text("utf-8")
    assert run(manifest, given) == replace(first, asked=0)
    assert first.path.read_text("utf-8") == text
    assert run(manifest, replace(given, qa=replace(SHORT, answerable=0.0))).asked == 0
    assert run(manifest, replace(given, qa=replace(SHORT, mode="implicit"))).asked == 0
    assert run(manifest, replace(given, qa=replace(SHORT, tokens=5))).asked == 10


def test_the_batch_size_changes_no_reply(manifest: Path, given: Recipe) -> None:
    found = []
    for temperature in (0.0, 1.0):
        recipe = replace(given, qa=replace(SHORT, temperature=temperature))
        alone = run(manifest, recipe, batch_size=1).path.read_text("utf-8")
        questions_path(manifest).unlink()
        assert run(manifest, recipe, batch_size=5).path.read_text("utf-8") == alone
        questions_path(manifest).unlink()
        found.append(alone)
    other = replace(given, qa=replace(SHORT, temperature=1.0, seed=2))
    assert len({*found, run(manifest, other).path.read_text("utf-8")}) == 3


def test_a_transcript_too_long_for_the_llm_is_dropped_with_its_reason(
    manifest: Path, given: Recipe
) -> None:
    long = {"id": "long", "audio": "l.wav", "text": "word " * 2500, "emotion": "sad"}
    write_lines(manifest, [long, ROWS[0]])
    report = run(manifest, given)
    rows = [row for row in read_rows(report.path) if row.id == "long"]
    assert len(rows) == 7
    assert all(r.dropped.endswith("tokens is too long for the LLM") for r in rows)
    assert all(row.guess is None and row.written == "" for row in rows)
    assert any(row.written for row in read_rows(report.path) if row.id == "a")
    text = report.path.read_text("utf-8")
    assert run(manifest, given).asked == 0
    assert report.path.read_text("utf-8") == text


def test_a_killed_run_goes_on_where_it_was(
    manifest: Path, given: Recipe, killed_after: KilledAfter
) -> None:
    undisturbed = run(manifest, given, batch_size=1).path.read_text("utf-8")
    questions_path(manifest).unlink()
    with killed_after(4):
        run(manifest, given, batch_size=1)
    assert not questions_path(manifest).exists()
    report = run(manifest, given, batch_size=1)
    assert report.asked == 6
    assert report.path.read_text("utf-8") == undisturbed


def test_workers_with_one_killed_write_what_one_process_writes(
    manifest: Path, given: Recipe, killed_worker: list[int]
) -> None:
    alone = run(manifest, given)
    content = alone.path.read_bytes()
    alone.path.unlink()
    (report,) = write_questions(manifest, given, 3, options=WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert report == alone
    assert report.path.read_bytes() == content
    assert journals_of(report.path) == []


def test_the_last_shard_joins_what_all_have_written(manifest: Path, given: Recipe) -> None:
    write_lines(manifest.with_name("test.jsonl"), ROWS[:1])  # all of its requests are in train
    alone = write_questions(manifest.parent, given)
    contents = [report.path.read_bytes() for report in alone]
    for report in alone:
        report.path.unlink()
    first = write_questions(manifest.parent, given, options=WorkerOptions(shard=Shard(2, 2)))
    left = [10 - report.asked for report in first if report.path == questions_path(manifest)]
    assert f"{left[0]} requests remain, of shard 1/2" in [report.unfinished for report in first]
    assert not any(report.path.exists() for report in alone)
    last = write_questions(manifest.parent, given, options=WorkerOptions(shard=Shard(1, 2)))
    assert sum(report.asked for report in (*first, *last)) == 10
    assert [report.path.read_bytes() for report in last] == contents
    assert not any(journals_of(report.path) for report in last)


def test_replies_are_parsed_filtered_and_counted(tmp_path: Path, quick: Recipe) -> None:
    manifest = tmp_path / "test.jsonl"
    write_lines(manifest, ROWS[:1])
    recipe = replace(quick, qa=replace(SHORT, questions=GivenQuestions(), pairs_each=2))
    replies: dict[QAType, str] = {
        "content": "Question: What is lost?\nAnswer: The keys.\nQ2: Whose?\nA2: The speaker's.\n"
        "Question: A third?\nAnswer: Too many.",
        "emotion": "Question: How does the speaker sound?\nAnswer: Quite angry.",
        "cause": "Question: Why is the speaker sad?\nAnswer: The keys are gone.",
        "reply": "The answer to this question is a question.",
    }
    told(manifest, recipe, read_manifest(manifest)[0], replies)
    report = run(manifest, recipe)
    assert report.asked == 1  # the guess
    assert report.kept == {("explicit", "content"): 2, ("implicit", "content"): 2}
    assert report.dropped == {
        "answer names another emotion": 1,
        "question names the label": 2,
        UNPARSABLE: 2,
    }
    rows = read_questions(manifest, ("implicit",))["a"]
    assert [(r.index, r.question, r.answer) for r in rows] == [
        (0, "What is lost?", "The keys."),
        (1, "Whose?", "The speaker's."),
    ]
    (unreadable,) = {r.written for r in read_rows(report.path) if r.dropped == UNPARSABLE}
    assert unreadable == replies["reply"]  # what was dropped can be looked at


def test_a_row_marks_pseudo_dimensions(manifest: Path, given: Recipe) -> None:
    write_lines(manifest, [{**ROWS[2], "vad_source": "pseudo"}])
    assert {r.label_source for r in read_rows(run(manifest, given).path)} == {"pseudo"}
    untold = replace(given, qa=replace(SHORT, dimensions=""))
    assert {r.label_source for r in read_rows(run(manifest, untold).path)} == {"corpus"}


def test_the_token_limit_cuts_only_the_last_pair(tmp_path: Path, quick: Recipe) -> None:
    manifest = tmp_path / "test.jsonl"
    write_lines(manifest, ROWS[:1])
    settings = replace(SHORT, questions=GivenQuestions(), types=("content",))
    written = "Question: What is lost?\nAnswer: The keys.\nQuestion: Whose?\nAnswer: The"
    dropped = {}
    for count in (1, 2):
        recipe = replace(quick, qa=replace(settings, pairs_each=count))
        told(manifest, recipe, read_manifest(manifest)[0], {"content": written}, early_stop=True)
        dropped[count] = run(manifest, recipe).dropped
    assert dropped == {1: {}, 2: {"answer cut by the token limit": 2}}


def test_a_recipe_without_an_llm_is_refused(manifest: Path, speech_recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'speech' has no \[llm\] table"):
        write_questions(manifest, speech_recipe)


@pytest.mark.parametrize(("name", "known"), [("small", "0467438fe8d2"), ("re-llm", "587df0aa4f4a")])
def test_rows_that_the_first_edition_wrote_are_still_of_the_same_writer(
    name: str, known: str
) -> None:
    recipe = load_recipe(name)
    assert writer_of(recipe, "0" * 64).fingerprint.partition("+")[0] == known
    four = replace(recipe.heads, emotions=("neutral", "happy", "angry", "sad"))
    assert writer_of(replace(recipe, heads=four), "0" * 64).fingerprint != known
