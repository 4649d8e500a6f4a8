"""reproduce table1 on miniature corpora with tiny models."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blsp import BOTTLENECK, SPEECH, write_blsp
from click.testing import CliRunner
from safetensors.torch import load_file
from trees import write_esd, write_iemocap, write_msp

from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.reproduction import runs as stage
from rellm_cache.reproduction.folds import Source
from rellm_cache.reproduction.page import write_page
from rellm_cache.reproduction.paper import ROWS
from rellm_cache.reproduction.prepare import Request
from rellm_cache.reproduction.runs import Job, Model
from rellm_cache.reproduction.table1 import find_equal_rows, reproduce, to_json
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import WEIGHTS, run_recipe
from rellm_cache.training.run import train

TRAINED = ["blsp-emo-ft", "re-llm", "re-llm-no-dimensions", "re-llm-no-emotion-encoder"]
READS = ["text-llm", "whisper-llm", "text-llm-label"]


@pytest.fixture
def base(quick: Recipe, writer_folder: Path, tmp_path: Path) -> Path:
    """The tiny recipe as a file that the paper's rows are variants of."""
    prompts = replace(quick.prompts, answer_tokens=4, expected_response_tokens=4)
    training = replace(quick.training, epochs=1, batch_size=8)
    spec = TranscriberSpec(model=str(writer_folder), max_tokens=4)
    path = tmp_path / "base.toml"
    path.write_text(
        to_toml(replace(quick, prompts=prompts, training=training, transcriber=spec)), "utf-8"
    )
    return path


@pytest.fixture
def command(base: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`command(corpus, data, …)`: arguments of `rellm` that reproduce it in `tmp_path / "out"`."""

    def arguments(corpus: str, data: Path, *more: str) -> list[str]:
        return ["reproduce", "table1", "--corpus", corpus, "--data", str(data), "--base", str(base),
                "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
                "--allow-partial", *more]  # fmt: skip

    return arguments


def read_answers(out: Path) -> list[dict[str, str]]:
    with (out / "utterances.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_iemocap_whole_and_again(
    command: Callable[..., list[str]], tmp_path: Path, empathy_scorer: Path
) -> None:
    data, out = write_iemocap(tmp_path / "iemocap"), tmp_path / "out"
    words = command("iemocap", data, "--empathy", str(empathy_scorer), "--control")
    first = CliRunner().invoke(rellm, words, catch_exceptions=False, standalone_mode=False)
    assert first.return_value == 0
    assert "Not made: blsp-emo: needs a BLSP-Emo checkpoint" in first.stdout
    for title in ("Table I on iemocap: 8 test clips", "The paper's means", "w/o dim aux"):
        assert title in first.stdout
    table = json.loads((out / "table1.json").read_text())
    names = [*READS, *TRAINED, "re-llm-shuffled"]
    assert [row["row"]["name"] for row in table["rows"]] == names
    tested = [u.id for u in read_split(out / "fold-1" / "manifest", "test")]
    answers = read_answers(out)
    for row in table["rows"]:
        own = [a for a in answers if a["row"] == row["row"]["name"]]
        assert sorted(a["id"] for a in own) == sorted(tested)
        assert row["empathy"]["ER"]["summary"]["mean"] == pytest.approx(
            sum(int(a["er"]) for a in own) / 8
        )
        recalls = {}
        for emotion in {a["emotion"] for a in own}:
            said = [a["llm"] == emotion for a in own if a["emotion"] == emotion]
            recalls[emotion] = sum(said) / len(said)
        if row["row"]["name"] == "text-llm-label":
            assert "UA" not in row["recognition"]
        else:
            ua = sum(recalls.values()) / len(recalls)
            assert row["recognition"]["UA"]["mean"] == pytest.approx(ua)
    page = (out / "table1.html").read_text()
    assert page.count("<svg") == 3
    assert "RE-LLM, labels shuffled" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    shuffled = read_split(out / "fold-1" / "shuffled", "train")
    given = {u.id: u.emotion for u in read_split(out / "fold-1" / "manifest", "train")}
    assert any(given[u.id] != u.emotion for u in shuffled)
    assert sorted(given.values(), key=str) == sorted((u.emotion for u in shuffled), key=str)

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/done.json")}
    assert len(before) == 8
    again = CliRunner().invoke(rellm, words, catch_exceptions=False, standalone_mode=False)
    assert again.stdout == first.stdout
    assert "8 of 8 models are already done" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(RunError, match=r"something else \(seed: wanted 2, found 1\)"):
        CliRunner().invoke(
            rellm, [*words, "--seed", "2"], catch_exceptions=False, standalone_mode=False
        )


def test_esd_gets_pseudo_dimensions_starts_from_heads_and_goes_on_after_a_kill(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, heads = load_recipe(str(base)), tmp_path / "heads.toml"
    adapter = replace(whole.adapter, output_size=32)
    alone = replace(whole.losses, response_lm=0.0, emotion_lm=0.0)
    heads.write_text(to_toml(replace(whole, llm=None, losses=alone, adapter=adapter)), "utf-8")
    request = Request(
        source=Source("esd", write_esd(tmp_path / "esd", sentences=8)),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        base=str(base),
        rows=("text-llm", "re-llm-no-emotion-encoder"),
        first=str(heads),
        allow_partial=True,
    )
    ordinary = stage.do_job
    done: list[str] = []

    def do_or_die(job: Job, resources: SharedModels) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        ordinary(job, resources)
        done.append(job.title)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "do_job", do_or_die)
        with pytest.raises(KeyboardInterrupt):
            reproduce(request)
    assert done == ["fold-1, text-llm"]
    found = reproduce(request)
    assert [row.row.name for row in found.rows] == list(request.rows)
    assert not found.failures
    assert found.rows[0].empathy == {}
    clips = read_split(tmp_path / "out" / "fold-1" / "manifest", "train")
    assert {u.vad_source for u in clips} == {"pseudo"}
    row = tmp_path / "out" / "fold-1" / "re-llm-no-emotion-encoder"
    first, second = run_recipe(row / "first"), run_recipe(row / "run")
    assert list(first.encoders) == list(second.encoders) == ["speech"]
    assert (first.llm, second.training.init_from) == (None, str(row / "first"))


def test_msp_podcast_in_two_processes_with_a_row_that_fails(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    data, out = write_msp(tmp_path / "msp", train=8, test=8), tmp_path / "out"
    CliRunner().invoke(
        rellm, command("msp-podcast", data, "--row", "text-llm"), catch_exceptions=False
    )
    (out / "fold-1" / "re-llm" / "run").mkdir(parents=True)
    (out / "fold-1" / "re-llm" / "run" / "notes.txt").write_text("mine")
    words = command("msp-podcast", data, "--row", "re-llm", "--row", "blsp-emo-ft")
    words += ["--processes", "2"]
    result = CliRunner().invoke(rellm, words, catch_exceptions=False, standalone_mode=False)
    assert result.return_value == 3
    assert "Failed: fold-1, re-llm: " in result.stdout
    assert "the run folder is not empty and is no run" in result.stdout
    assert {a["row"] for a in read_answers(tmp_path / "out")} == {"blsp-emo-ft"}


def test_a_failed_model_is_listed_and_the_others_go_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = stage.do_job

    def break_once(job: Job, resources: SharedModels) -> None:
        if job.row.name == "text-llm":
            raise MemoryError("no more")
        ordinary(job, resources)

    monkeypatch.setattr(stage, "do_job", break_once)
    rows = ("text-llm", "text-llm-label")
    request = Request(Source("iemocap", write_iemocap(tmp_path / "iemocap")), tmp_path / "out",
                      tmp_path / "cache", str(base), rows=rows, allow_partial=True)  # fmt: skip
    found = reproduce(request)
    assert [(f.title, f.reason) for f in found.failures] == [
        ("fold-1, text-llm", "MemoryError: no more")
    ]
    assert [row.row.name for row in found.rows] == ["text-llm-label"]


def test_folds_can_be_added_later(base: Path, tmp_path: Path) -> None:
    source = Source("iemocap", write_iemocap(tmp_path / "iemocap"), cross_validate=True)
    request = Request(source, tmp_path / "out", tmp_path / "cache", str(base), rows=("text-llm",),
                      folds=1, allow_partial=True)  # fmt: skip
    first = reproduce(request)
    done = tmp_path / "out" / "fold-1" / "text-llm" / "done.json"
    before = done.stat().st_mtime_ns
    second = reproduce(replace(request, folds=2))
    assert (first.folds, second.folds) == (["fold-1"], ["fold-1", "fold-2"])
    assert (first.test_clips, second.test_clips) == (8, 16)
    assert second.records[:8] == first.records
    assert done.stat().st_mtime_ns == before
    assert second.rows[0].recognition["UA"].count == 2


def test_rows_start_from_a_blsp_emo_checkpoint(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(base))
    adapter = replace(recipe.adapter, preset="reference", bottleneck=BOTTLENECK)
    base.write_text(to_toml(replace(recipe, adapter=adapter)), "utf-8")
    checkpoint = write_blsp(tmp_path / "blsp-emo")
    rows = ("blsp-emo", "blsp-emo-ft", "re-llm")
    request = Request(Source("iemocap", write_iemocap(tmp_path / "iemocap")), tmp_path / "out",
                      tmp_path / "cache", str(base), rows=rows, blsp=checkpoint,
                      allow_partial=True)  # fmt: skip
    found = reproduce(request)
    assert [row.row.name for row in found.rows] == list(rows)
    fold = tmp_path / "out" / "fold-1"
    published, tuned, wider = (load_file((fold / row / "run" / WEIGHTS).resolve()) for row in rows)
    name = "adapter.convs.0.conv.weight"  # (2 x out, in, kernel)
    assert published[name].shape == tuned[name].shape == (2 * SPEECH, SPEECH, 5)
    assert not torch.equal(published[name], tuned[name])
    assert wider[name].shape[1] > SPEECH
    for row in ("blsp-emo-ft", "re-llm"):
        started = run_recipe(fold / row / "run").training.init_from
        assert Path(started) == tmp_path / "out" / "blsp" / row
    with pytest.raises(RunError, match=r"something else \(blsp: wanted '', found"):
        reproduce(replace(request, blsp=None))


def test_a_run_stands_in_for_blsp_emo_in_its_own_row(
    base: Path, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    train(replace(load_recipe(str(base)), name="made-speech"), corpus, cache, elsewhere)
    rows = ("blsp-emo", "re-llm")
    request = Request(Source("iemocap", write_iemocap(tmp_path / "iemocap")), tmp_path / "out",
                      cache, str(base), rows=rows, blsp=elsewhere, allow_partial=True)  # fmt: skip
    found = reproduce(request)
    assert [row.row.name for row in found.rows] == list(rows)
    assert not found.absent
    (note,) = found.notes
    assert str(elsewhere) in note
    assert to_json(found)["notes"] == [note]
    write_page(tmp_path / "page.html", found)
    assert "stands in for it" in (tmp_path / "page.html").read_text()
    fold = tmp_path / "out" / "fold-1"
    assert (fold / "blsp-emo" / "run" / WEIGHTS).samefile(elsewhere / WEIGHTS)
    assert run_recipe(fold / "re-llm" / "run").training.init_from == ""
    (elsewhere / WEIGHTS).write_bytes(b"another run")
    with pytest.raises(RunError, match=r"blsp-emo: holds results of another recipe or of other"):
        reproduce(request)
    assert not reproduce(replace(request, blsp=None, rows=("re-llm",))).failures


def test_without_dimensions_equal_rows_are_one_model(base: Path) -> None:
    models = {
        row: Model(load_recipe(row.recipe, base=str(base))) for row in ROWS if row.kind == "trains"
    }
    assert find_equal_rows(models, has_vad=True) == {}
    assert find_equal_rows(models, has_vad=False) == {
        "re-llm-no-dimensions": "re-llm",
        "re-llm-no-emotion-encoder": "blsp-emo-ft",
    }


def test_invalid_requests_are_refused_first(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    request = Request(Source("esd", tmp_path), tmp_path, tmp_path)
    with pytest.raises(RunError, match="is not empty and holds no reproduction"):
        reproduce(request)
    with pytest.raises(ConfigError, match="--first and --blsp: training starts from one"):
        replace(request, first="heads", blsp=tmp_path)
    request = Request(Source("esd", tmp_path), tmp_path, tmp_path, rows=("re-lm",))
    with pytest.raises(ConfigError, match="row 're-lm': expected one of text-llm, whisper-llm"):
        reproduce(request)
