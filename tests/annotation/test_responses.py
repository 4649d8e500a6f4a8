"""respond: equal prompts are asked once, refusals are counted, a kill loses no rows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kills import KilledAfter
from safetensors.torch import load_file, save_file

from rellm_cache.annotation.responses import RespondReport, reply_fingerprint, respond
from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.corpus.manifest import read_lines, read_manifest, responses_path, write_lines
from rellm_cache.errors import ConfigError, ManifestError, RellmError
from rellm_cache.utils.locks import hold_file
from rellm_cache.utils.resumable_table import journal_beside, journals_of, read_journal
from rellm_cache.workers.options import Shard, WorkerOptions

ROWS: list[dict[str, Any]] = [
    {"id": "a", "audio": "a.wav", "text": "I lost my keys.", "emotion": "sad"},
    {"id": "b", "audio": "b.wav", "text": "I lost my keys.", "emotion": "sad"},
    {"id": "c", "audio": "c.wav", "text": "I lost my keys.", "emotion": "angry"},
    {"id": "d", "audio": "d.wav", "text": "We {won}!", "emotion": "happy"},
    {"id": "e", "audio": "e.wav", "text": "No feeling."},
    {"id": "f", "audio": "f.wav", "emotion": "neutral"},
]


def fingerprint_of(recipe: Recipe) -> str:
    return reply_fingerprint(recipe.require_llm(), recipe.prompts)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_lines(tmp_path / "train.jsonl", ROWS)
    return tmp_path / "train.jsonl"


def waiting(manifest: Path) -> Path:
    """Where answers are kept while a manifest is not done."""
    return journal_beside(responses_path(manifest))


def run(manifest: Path, recipe: Recipe, batch_size: int = 2) -> RespondReport:
    (report,) = respond(manifest, recipe, batch_size)
    return report


def answered(recipe: Recipe, emotion: str, transcript: str, text: str) -> dict[str, Any]:
    """A row as an interrupted run leaves it."""
    prompt = recipe.prompts.expected_response.format(emotion=emotion, transcript=transcript)
    row = {"prompt": prompt, "length": 90, "text": text, "early_stop": False}
    return {**row, "generator": fingerprint_of(recipe)}


def test_equal_prompts_are_asked_once_and_answers_are_joined(
    manifest: Path, recipe: Recipe
) -> None:
    report = run(manifest, recipe)
    assert report.path == manifest.with_name("train.responses.jsonl")
    assert (report.generated, report.written) == (3, 4)
    assert report.dropped == {"no emotion": 1, "no transcript": 1}
    a, b, c, d, e, _ = read_manifest(manifest)
    assert a.response
    assert a.response == b.response != c.response
    assert d.response
    assert e.response is None
    rows = [row for _, row in read_lines(report.path)]
    assert rows[3]["prompt"].endswith(
        "reflects a 'happy' emotion tone in a coherent style: We {won}!"
    )
    assert not waiting(manifest).exists()


def test_a_second_run_generates_nothing(manifest: Path, recipe: Recipe) -> None:
    first = run(manifest, recipe)
    text = first.path.read_text("utf-8")
    assert run(manifest, recipe) == replace(first, generated=0)
    assert first.path.read_text("utf-8") == text


def test_the_batch_size_changes_no_answer(manifest: Path, recipe: Recipe) -> None:
    alone = run(manifest, recipe, batch_size=1).path.read_text("utf-8")
    responses_path(manifest).unlink()
    assert run(manifest, recipe, batch_size=3).path.read_text("utf-8") == alone


def test_only_new_texts_are_asked(manifest: Path, recipe: Recipe) -> None:
    run(manifest, recipe)
    changed = {**ROWS[2], "text": "I found my keys."}
    write_lines(manifest, [*ROWS[:2], changed, *ROWS[3:], {**ROWS[0], "id": "g"}])
    report = run(manifest, recipe)
    assert (report.generated, report.written) == (1, 5)  # "g" says what "a" says
    assert run(manifest, recipe).generated == 0


@pytest.mark.parametrize(
    "change", [{"expected_response_tokens": 3}, {"empathetic_system": "Be kind."}]
)
def test_other_prompts_or_limits_give_new_answers(
    manifest: Path, recipe: Recipe, change: dict[str, Any]
) -> None:
    run(manifest, recipe)
    other = replace(recipe, prompts=replace(recipe.prompts, **change))
    assert fingerprint_of(other) != fingerprint_of(recipe)
    assert run(manifest, other).generated == 3


def test_a_transcript_too_long_for_the_llm_is_dropped_with_its_reason(
    manifest: Path, recipe: Recipe
) -> None:
    undisturbed = {r["id"]: r for _, r in read_lines(run(manifest, recipe).path)}
    responses_path(manifest).unlink()
    long = {"id": "long", "audio": "l.wav", "text": "word " * 2500, "emotion": "sad"}
    blank = {"id": "blank", "audio": "l.wav", "text": " \n", "emotion": "sad"}
    write_lines(manifest, [ROWS[0], long, *ROWS[1:], blank])
    report = run(manifest, recipe, batch_size=8)
    reason = next(r for r in report.dropped if "too long" in r)
    assert reason.startswith("its request of 12")
    assert reason.endswith("is too long for the LLM")
    assert (report.generated, report.written) == (4, 4)
    rows = {row["id"]: row for _, row in read_lines(report.path)}
    assert (rows["long"]["dropped"], rows["long"]["text"]) == (reason, "")
    assert rows["blank"]["dropped"] == "no transcript"
    assert {name: row for name, row in rows.items() if name in undisturbed} == undisturbed
    # The same again asks nothing; a retry with another clip keeps the reason.
    assert run(manifest, recipe) == replace(report, generated=0)
    write_lines(manifest, [long])
    assert run(manifest, recipe).dropped == {reason: 1}


def test_lora_does_not_change_the_fingerprint(recipe: Recipe) -> None:
    assert recipe.llm is not None
    other = replace(recipe, llm=replace(recipe.llm, lora=LoraConfig(rank=3)))
    assert fingerprint_of(other) == fingerprint_of(recipe)


def test_a_killed_run_goes_on_where_it_was(
    manifest: Path, recipe: Recipe, killed_after: KilledAfter
) -> None:
    undisturbed = run(manifest, recipe, batch_size=1).path.read_text("utf-8")
    responses_path(manifest).unlink()
    with killed_after(2):
        run(manifest, recipe, batch_size=1)
    assert not responses_path(manifest).exists()
    with waiting(manifest).open("ab") as file:
        file.write(b'{"prompt": "Continue \xc3')  # a line cut short, within a letter
    assert len(list(read_journal(waiting(manifest)))) == 2
    report = run(manifest, recipe, batch_size=1)
    assert (report.generated, report.written) == (1, 4)
    assert report.path.read_text("utf-8") == undisturbed
    assert not waiting(manifest).exists()


def test_refusals_and_long_answers_are_dropped_and_counted(manifest: Path, recipe: Recipe) -> None:
    recipe = replace(recipe, prompts=replace(recipe.prompts, example_tokens=200))
    long = {**answered(recipe, "angry", "I lost my keys.", "So …"), "length": 201}
    answers = [
        answered(recipe, "sad", "I lost my keys.", "I\u2019m sorry, but I cannot help."),
        answered(recipe, "happy", "We {won}!", ""),
        long,
    ]
    write_lines(waiting(manifest), answers)
    report = run(manifest, recipe)
    assert (report.generated, report.written) == (0, 0)
    assert report.dropped == {
        "refusal": 2,
        "longer than 200 tokens": 1,
        "empty": 1,
        "no emotion": 1,
        "no transcript": 1,
    }
    assert {u.response for u in read_manifest(manifest)} == {None}
    kept = {row["id"]: row.get("text") for _, row in read_lines(report.path)}
    assert kept["a"].startswith("I\u2019m sorry")  # what was dropped can be looked at


def test_a_wording_with_other_braces_is_kept(manifest: Path, recipe: Recipe) -> None:
    prompts = replace(recipe.prompts, expected_response="{name}, {emotion}: {transcript} {}")
    run(manifest, replace(recipe, prompts=prompts))
    rows = [row for _, row in read_lines(responses_path(manifest))]
    assert rows[3]["prompt"] == "{name}, happy: We {won}! {}"


def test_every_split_of_a_folder_gets_its_file(corpus: Path, recipe: Recipe) -> None:
    reports = respond(corpus, recipe)
    assert [r.path.name for r in reports] == [
        f"{split}.responses.jsonl" for split in ("train", "validation", "test")
    ]
    assert sum(r.written for r in reports) == 11


def test_a_recipe_without_an_llm_is_refused(manifest: Path, speech_recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'speech' has no \[llm\] table"):
        respond(manifest, speech_recipe)


def test_a_damaged_responses_file_is_named(manifest: Path, recipe: Recipe) -> None:
    responses_path(manifest).write_text('{"id": "a", "resp')
    with pytest.raises(ManifestError, match=r"train.responses.jsonl:1: not JSON"):
        respond(manifest, recipe)


def test_a_new_limit_applies_to_existing_answers(manifest: Path, recipe: Recipe) -> None:
    answers = [
        answered(recipe, "sad", "I lost my keys.", "Oh."),
        answered(recipe, "happy", "We {won}!", "Yes!"),
        answered(recipe, "angry", "I lost my keys.", "So."),
    ]
    write_lines(waiting(manifest), answers)
    first = run(manifest, recipe)
    assert (first.generated, first.written) == (0, 4)
    strict = replace(recipe, prompts=replace(recipe.prompts, example_tokens=92))
    report = run(manifest, strict)
    assert (report.generated, report.written) == (0, 0)
    assert report.dropped["longer than 92 tokens"] == 4
    content = report.path.read_text("utf-8")
    assert run(manifest, strict).path.read_text("utf-8") == content
    assert run(manifest, recipe) == first


def test_the_limit_counts_the_end_tokens_of_a_complete_reply(
    manifest: Path, recipe: Recipe
) -> None:
    # ChatML ends a reply with three tokens, one of them for the newline.
    recipe = replace(recipe, prompts=replace(recipe.prompts, example_tokens=256))
    lengths = {"sad": 253, "happy": 254, "angry": 256}
    answers = [
        {**answered(recipe, e, "We {won}!" if e == "happy" else "I lost my keys.", "So."),
         "length": length, "early_stop": e == "angry"}
        for e, length in lengths.items()
    ]  # fmt: skip
    write_lines(waiting(manifest), answers)
    assert run(manifest, recipe).dropped["longer than 256 tokens"] == 1
    dropped = {row["id"] for _, row in read_lines(responses_path(manifest)) if "dropped" in row}
    assert dropped >= {u.id for u in read_manifest(manifest) if u.emotion == "happy"}


def test_old_rows_without_length_stay(manifest: Path, recipe: Recipe) -> None:
    base = {"id": "a", "fingerprint": fingerprint_of(recipe)}
    prompt = answered(recipe, "sad", "I lost my keys.", "")["prompt"]
    old = {**base, "prompt": prompt, "response": "Oh.", "early_stop": False}
    write_lines(responses_path(manifest), [old])
    run(manifest, recipe)
    assert next(row for _, row in read_lines(responses_path(manifest))) == old


def test_a_folder_with_other_weights_is_another_llm(
    manifest: Path, recipe: Recipe, tmp_path: Path
) -> None:
    assert recipe.llm is not None
    folder = tmp_path / "llm"
    shutil.copytree(recipe.llm.model, folder)
    recipe = replace(recipe, llm=replace(recipe.llm, model=str(folder)))
    assert run(manifest, recipe).generated == 3
    again = folder.rename(tmp_path / "moved")
    moved = replace(recipe, llm=replace(recipe.llm, model=str(again)))
    assert run(manifest, moved).generated == 0
    weights = load_file(again / "model.safetensors")
    save_file({n: -t for n, t in weights.items()}, again / "model.safetensors", {"format": "pt"})
    assert run(manifest, moved).generated == 3


def test_workers_with_one_killed_write_what_one_process_writes(
    manifest: Path, recipe: Recipe, killed_worker: list[int]
) -> None:
    alone = run(manifest, recipe)
    content = alone.path.read_bytes()
    alone.path.unlink()
    (report,) = respond(manifest, recipe, 4, options=WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert report == alone
    assert report.path.read_bytes() == content
    assert not waiting(manifest).exists()


def test_a_killed_call_with_workers_is_continued_by_one_process(
    manifest: Path, recipe: Recipe, killed_after: KilledAfter
) -> None:
    alone = run(manifest, recipe)
    content = alone.path.read_bytes()
    alone.path.unlink()
    with killed_after(2):
        respond(manifest, recipe, 1, options=WorkerOptions(workers=2))
    report = run(manifest, recipe)
    assert report == replace(alone, generated=1)
    assert report.path.read_bytes() == content


def test_the_last_shard_joins_what_all_have_written(manifest: Path, recipe: Recipe) -> None:
    other = manifest.with_name("validation.jsonl")  # one prompt of train, and one of its own
    write_lines(other, [{**ROWS[0], "id": "x"}, {**ROWS[3], "id": "y", "text": "We lost."}])
    alone = respond(manifest.parent, recipe)
    contents = [report.path.read_bytes() for report in alone]
    for report in alone:
        report.path.unlink()
    prompts = {row["prompt"] for report in alone for row in read_rows(contents, alone, report)}
    counts = [sum(Shard.of(p, 3) == Shard(n, 3) for p in prompts) for n in (1, 2, 3)]
    order = [3, 1, 2]
    for number in order:
        found = respond(manifest.parent, recipe, options=WorkerOptions(shard=Shard(number, 3)))
        assert sum(report.generated for report in found) == counts[number - 1]
    assert [report.unfinished for report in found] == ["", ""]
    assert [report.path.read_bytes() for report in found] == contents
    assert [r.written for r in found] == [r.written for r in alone]
    assert not any(journals_of(report.path) for report in found)


def read_rows(contents: list[bytes], reports: list[RespondReport], own: RespondReport) -> Any:
    """The rows of a report's file with a prompt, from its content."""
    text = contents[reports.index(own)].decode()
    return [row for row in map(json.loads, text.splitlines()) if "prompt" in row]


def test_a_shard_says_what_remains_and_a_call_without_one_makes_it(
    manifest: Path, recipe: Recipe
) -> None:
    alone = run(manifest, recipe)
    content = alone.path.read_bytes()
    prompts = {r["prompt"] for _, r in read_lines(alone.path) if "prompt" in r}
    alone.path.unlink()
    shard = Shard.of(min(prompts), 2)
    mine = [prompt for prompt in prompts if Shard.of(prompt, 2) == shard]
    (report,) = respond(manifest, recipe, options=WorkerOptions(shard=shard))
    left = len(prompts) - len(mine)
    assert report.generated == len(mine)
    if left:
        s = "s remain" if left > 1 else " remains"
        assert report.unfinished == f"{left} prompt{s}, of shard {3 - shard.number}/2"
        assert not report.path.exists()
    assert run(manifest, recipe) == replace(alone, generated=left)
    assert alone.path.read_bytes() == content
    assert not journals_of(alone.path)


def test_a_shard_that_another_process_makes_is_refused(manifest: Path, recipe: Recipe) -> None:
    out, options = responses_path(manifest), WorkerOptions(shard=Shard(1, 2))
    with (
        hold_file(journal_beside(out, "1-of-2")),
        pytest.raises(RellmError, match=r"part-1-of-2.journal: process \d+ on .* is writing it"),
    ):
        respond(manifest, recipe, options=options)
