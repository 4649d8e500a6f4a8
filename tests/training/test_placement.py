"""Tensor placement: whole runs on a simulated GPU that refuses tensors of the host.

No GPU is needed: see `phantom`.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from there import run_there
from transformers import AutoModelForCausalLM

from rellm_cache.annotation.teacher import write_teacher_store
from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.qa import GivenQuestions, QASettings
from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import (
    Utterance,
    manifest_files,
    read_manifest,
    read_manifests,
    responses_path,
)
from rellm_cache.data.streams import open_streams
from rellm_cache.empathy.scorer_folder import load_card
from rellm_cache.empathy.scoring import score_csv
from rellm_cache.inference.generate import generate
from rellm_cache.qa.rows import QARow, questions_path, read_rows, write_rows
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.transcripts import list_transcripts, read_transcripts_file
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

GIVEN = GivenQuestions("What?", "How does it sound?", "Why?", "What do you reply?")


@pytest.fixture
def whole(quick: Recipe, writer_folder: Path, tmp_path: Path) -> Recipe:
    """The quick recipe with every loss over tokens, as a GPU runs it, input embeddings on the
    host."""
    assert quick.llm is not None
    untied = tmp_path / "untied"
    shutil.copytree(quick.llm.model, untied)
    AutoModelForCausalLM.from_pretrained(untied, tie_word_embeddings=False).save_pretrained(untied)
    llm = replace(quick.llm, model=str(untied), attention="sdpa", offload_embeddings=True)
    return replace(
        quick,
        llm=llm,
        transcriber=TranscriberSpec(model=str(writer_folder), max_tokens=6),
        losses=replace(quick.losses, response_kl=1.0, kl_top_k=8, qa_lm=1.0),
        qa=QASettings(system="Write.", tokens=4, questions=GIVEN, answerable=1.0),
    )


def test_the_device_refuses_what_is_on_the_host() -> None:
    assert "a host tensor (3,) of torch.float32" in run_there("computed_with_the_host")


def test_its_memory_is_counted() -> None:
    assert run_there("bytes_held") == (6000, 6000, 0)


def test_what_comes_before_training(
    corpus: Path, cache: Path, whole: Recipe, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(corpus, other / corpus.name)
    shutil.copytree(corpus.parent / "audio", other / "audio")
    manifest = other / corpus.name
    for file in manifest_files(manifest):
        responses_path(file).unlink()
    run_there("prepare_there", whole, manifest, other / "cache")
    clips = [u.id for u in read_manifests(corpus)]
    for file in manifest_files(manifest):  # a random LLM may answer with blanks, which are dropped
        rows = map(json.loads, responses_path(file).read_text("utf-8").splitlines())
        assert {row["id"] for row in rows} == {u.id for u in read_manifests(file)}
    (transcripts,) = list_transcripts(other / "cache")
    assert set(read_transcripts_file(transcripts)) == set(clips)
    assert read_rows(questions_path(manifest / "train.jsonl"))
    here, there = (open_streams(whole.encoders, folder) for folder in (cache, other / "cache"))
    assert [*here.sources] == [*there.sources] == ["speech", "emotion"]
    for ours, theirs in zip(here.sources.values(), there.sources.values(), strict=True):
        for clip in clips:
            np.testing.assert_allclose(theirs.frames(clip), ours.frames(clip), rtol=2e-3, atol=2e-3)


def question(clip: Utterance) -> QARow:
    tone = clip.emotion or ""
    return QARow(clip.id, "implicit", "emotion", 0, "How?", f"It is {tone}.", False, "", tone,
                 "corpus", None, "m", "0", "w", "p", 1, "")  # fmt: skip


def plain(recipe: Recipe) -> Recipe:
    """With the LLM's table on the device, too."""
    assert recipe.llm is not None
    return replace(recipe, llm=replace(recipe.llm, offload_embeddings=False))


def with_lora(recipe: Recipe) -> Recipe:
    """LoRA on layers that are run again in the backward pass."""
    assert recipe.llm is not None
    llm = replace(recipe.llm, lora=LoraConfig(dropout=0.0), activation_checkpointing=True)
    return replace(recipe, llm=llm)


def with_all_else(recipe: Recipe) -> Recipe:
    """CCC, class weights, frames of 8 bits, the mean of weights, small micro-batches."""
    losses = replace(recipe.losses, vad_kind="ccc", class_weights="balanced")
    training = replace(recipe.training, weight_averaging=0.5, micro_batch_tokens=300)
    speech, emotion = recipe.encoders.values()
    encoders = {
        "speech": replace(speech, dtype="int8"),
        "emotion": replace(emotion, pooling="utterance"),
    }
    return replace(
        recipe,
        losses=losses,
        training=training,
        encoders=encoders,
    )


@pytest.mark.parametrize("change", [plain, with_lora, with_all_else])
def test_a_run(
    corpus: Path,
    cache: Path,
    whole: Recipe,
    tmp_path: Path,
    change: Callable[[Recipe], Recipe],
) -> None:
    for file in manifest_files(corpus):
        write_rows(questions_path(file), [question(u) for u in read_manifest(file)])
    write_teacher_store(corpus, whole, cache)
    quantize(FeatureStore.find(cache, whole.encoders["speech"]).path)
    recipe = change(whole)
    run = tmp_path / "there"
    run_there("train_there", recipe, corpus, cache, run)
    train(recipe, corpus, cache, tmp_path / "here")
    ours, theirs = (list(read_metrics(tmp_path / name)) for name in ("here", "there"))
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        for name, value in row.items():
            if name.endswith("loss"):
                assert other[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
    generate(run, corpus / "test.jsonl", tmp_path / "answers.jsonl", cache)
    here, there = (
        [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
        for folder in (tmp_path, run)
    )
    assert len(here) == len(there) == 2
    for answer, other in zip(here, there, strict=True):
        expected = answer["emotion_probabilities"]
        assert other["emotion_probabilities"] == pytest.approx(expected, abs=1e-3)
    assert json.loads((run / "scores.json").read_text("utf-8"))["llm"].keys() >= {
        "ua",
        "generation",
    }
    assert (run / "judged.jsonl").is_file()


def test_a_scorer_of_empathy(epitome_folder: Path, empathy_scorer: Path, tmp_path: Path) -> None:
    replies = tmp_path / "replies.csv"
    replies.write_text("seeker_post,response_post\nI lost my job.,How sad that is.\n", "utf-8")
    settings = load_card(empathy_scorer).settings
    run_there("score_there", settings, epitome_folder, tmp_path / "scorer", replies)
    score_csv(empathy_scorer, replies, tmp_path / "scores.csv")
    ours, theirs = (
        next(csv.DictReader(path.read_text("utf-8").splitlines()))
        for path in (tmp_path / "scores.csv", tmp_path / "scorer" / "scores.csv")
    )
    assert ours.keys() == theirs.keys()
    probabilities = [name for name in ours if re.search("_p[012]", name)]
    assert len(probabilities) == 18
    for name in probabilities:
        assert float(theirs[name]) == pytest.approx(float(ours[name]), abs=1e-2), name
