"""respond --teacher: each response is processed once, and training learns from the store."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rellm_cache.annotation import teacher as stage
from rellm_cache.annotation.teacher import write_teacher_store
from rellm_cache.cache_admin.audit import compare_audio
from rellm_cache.cache_admin.info import cache_info, list_clips
from rellm_cache.cache_admin.maintenance import compact_cache, verify_cache
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines, responses_path, write_lines
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.evaluation.run import evaluate
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.teacher_distribution import split_rows
from rellm_cache.store.maintenance.hdf5 import export_store, import_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train


@pytest.fixture
def distilled(quick: Recipe) -> Recipe:
    """The quick recipe with a divergence of eight tokens and the rest."""
    return replace(quick, losses=replace(quick.losses, response_kl=1.0, kl_top_k=8))


def silent(count: int = 1, note: str = "") -> None:
    """Show no progress."""


def change_response(corpus: Path, response: str) -> None:
    """Give the second clip of the train split another response."""
    beside = responses_path(corpus / "train.jsonl")
    rows = [row for _, row in read_lines(beside)]
    rows[1]["response"] = response
    write_lines(beside, rows)


def test_rows_are_the_text_llms_predictions(corpus: Path, distilled: Recipe, cache: Path) -> None:
    report = write_teacher_store(corpus, distilled, cache)
    assert (report.written, report.present, report.changed, report.skipped) == (11, 0, 0, 0)
    assert report.path.name.startswith("tiny-chat-teacher-")
    store = FeatureStore(report.path)
    assert distilled.llm is not None
    llm = load_llm(distilled.llm, torch.device("cpu"))
    prompts = distilled.prompts
    user = prompts.expected_response.format(emotion="happy", transcript="This is tone number 1.")
    request = llm.chat.text_prompt(prompts.empathetic_system, user)
    response = llm.chat.ids("So happy!") + llm.chat.end_ids
    logits = llm.model(inputs_embeds=llm.embed((*request, *response))[None]).logits[0]
    expected = (logits[len(request) - 1 : -1] / 2).softmax(1)
    ids, log_p, rest = split_rows(torch.tensor(store.frames("tones/01")))
    assert len(ids) == len(response)
    torch.testing.assert_close(log_p.exp(), expected.topk(8).values, rtol=1e-4, atol=1e-6)
    assert torch.equal(ids, expected.topk(8).indices)
    torch.testing.assert_close(rest.exp().squeeze(1), 1 - expected.topk(8).values.sum(1))


def test_a_response_is_read_once_until_it_changes(
    corpus: Path, distilled: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_teacher_store(corpus, distilled, cache)

    def refuse(*arguments: object) -> FrozenLLM:
        raise AssertionError("the LLM was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_llm", refuse)
        assert write_teacher_store(corpus, distilled, cache).present == 11
    change_response(corpus, "Oh.")
    report = write_teacher_store(corpus, distilled, cache)
    assert (report.written, report.present, report.changed) == (1, 10, 1)
    hotter = replace(distilled, losses=replace(distilled.losses, kl_temperature=3.0))
    other = write_teacher_store(corpus, hotter, cache)
    assert other.path != report.path
    assert other.written == 11


def swap_letters(text: str) -> str:
    """A `tokenizer.json` in which two letters have each other's id."""
    document = json.loads(text)
    ids = document["model"]["vocab"]
    ids["o"], ids["e"] = ids["e"], ids["o"]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("name", "edit", "changed"),
    [
        ("tokenizer.json", swap_letters, 11),
        ("chat_template.jinja", lambda text: text.replace("assistant", "friend"), 11),
        ("chat_template.jinja", lambda text: text.replace("<|im_end|>", "<|endoftext|>"), 11),
        # The same tokens: the teacher would predict the same.
        ("tokenizer.json", lambda text: text + " ", 0),
        ("chat_template.jinja", lambda text: "{# a comment #}" + text, 0),
    ],
    ids=("tokenizer", "template", "end token", "space", "comment"),
)
def test_rows_of_other_tokens_are_made_again(
    corpus: Path,
    distilled: Recipe,
    cache: Path,
    tmp_path: Path,
    name: str,
    edit: Callable[[str], str],
    changed: int,
) -> None:
    """The digest of a row covers the token ids: all that tokenizer and template decide of it."""
    assert distilled.llm is not None
    folder = shutil.copytree(distilled.llm.model, tmp_path / "chat")
    llm = replace(distilled.llm, model=str(folder), template="model")
    recipe = replace(distilled, llm=llm)
    before = write_teacher_store(corpus, recipe, cache)
    (folder / name).write_text(edit((folder / name).read_text("utf-8")), "utf-8")
    report = write_teacher_store(corpus, recipe, cache)
    assert report.path == before.path
    assert (report.changed, report.present) == (changed, 11 - changed)


def test_a_killed_call_goes_on(
    corpus: Path, distilled: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distilled.llm is not None
    alone = replace(distilled, llm=replace(distilled.llm, pack_length=1))
    predict, calls = stage._predict, []

    def dies_at_the_fourth(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_predict", dies_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            write_teacher_store(corpus, alone, cache)
    report = write_teacher_store(corpus, alone, cache)
    assert (report.written, report.present) == (8, 3)


def test_a_run_learns_from_the_teacher(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    write_teacher_store(corpus, distilled, cache)
    training = replace(distilled.training, epochs=6, learning_rate=3e-3)
    # Without the likelihood of responses: the teacher alone pulls.
    losses = replace(distilled.losses, response_lm=0.0)
    recipe = replace(distilled, training=training, losses=losses)
    report = train(recipe, corpus, cache, tmp_path / "run")
    name = "response_kl_loss"
    assert report.validation[name] < report.untrained[name]
    scores = evaluate(tmp_path / "run", corpus / "test.jsonl", cache)  # which asks no teacher
    assert scores.to_json()


def test_rows_and_micro_batches_change_nothing(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    write_teacher_store(corpus, distilled, cache)
    assert distilled.llm is not None
    losses = replace(distilled.losses, class_weights="balanced", vad_kind="ccc")
    first = {}
    for name, size, parts, tokens in (("one", 7, 1, 4096), ("many", 2, 4, 1)):
        recipe = replace(
            distilled,
            losses=losses,
            training=replace(
                distilled.training, batch_size=size, gradient_accumulation=parts, epochs=1
            ),
            llm=replace(distilled.llm, pack_length=tokens),
        )
        train(recipe, corpus, cache, tmp_path / name)
        rows = list(read_metrics(tmp_path / name))
        first[name] = next(row for row in rows if "gradient_norm" in row)
        assert rows[0]["validation"]["vad_loss"] == pytest.approx(
            1 - sum(v for k, v in rows[0]["validation"].items() if k.startswith("ccc_")) / 3
        )
    for key, value in first["one"].items():
        if key.endswith("loss") or key == "gradient_norm":
            assert first["many"][key] == pytest.approx(value, rel=1e-4), key


def test_training_without_a_teacher_store_names_the_command(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    match = r"not in the cache; add them with `rellm respond --teacher .*manifest --recipe"
    with pytest.raises(StoreError, match=match):
        train(distilled, corpus, cache, tmp_path / "run")
    write_teacher_store(corpus / "train.jsonl", distilled, cache)
    with pytest.raises(StoreError, match=r"2 of 9 clips are absent.*`rellm respond --teacher"):
        train(distilled, corpus, cache, tmp_path / "run")
    write_teacher_store(corpus, distilled, cache)
    change_response(corpus, "Oh.")
    match = r"1 of 9 responses or their requests have changed, the first is that of 'tones/01'"
    with pytest.raises(StoreError, match=match):
        train(distilled, corpus, cache, tmp_path / "run")


def test_other_settings_are_another_teacher(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    write_teacher_store(corpus, distilled, cache)
    losses = replace(distilled.losses, kl_top_k=9)
    with pytest.raises(StoreError, match="kl_top_k and kl_temperature, which are not in the cache"):
        train(replace(distilled, losses=losses), corpus, cache, tmp_path / "run")


def test_missing_texts_and_small_vocabularies_are_reported(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    losses = replace(distilled.losses, kl_top_k=259)
    with pytest.raises(ConfigError, match="kl_top_k = 259: expected less than the 259 tokens of"):
        write_teacher_store(corpus, replace(distilled, losses=losses), cache)
    rows = [row for _, row in read_lines(corpus / "train.jsonl")]
    del rows[0]["text"]
    write_lines(corpus / "train.jsonl", rows)
    assert write_teacher_store(corpus, distilled, cache).skipped == 1
    with pytest.raises(ConfigError, match=r"1 utterance has a response but no transcript"):
        train(distilled, corpus, cache, tmp_path / "run")
    responses_path(corpus / "test.jsonl").unlink()
    with pytest.raises(ManifestError, match=r"no utterance has a response.*`rellm respond`"):
        write_teacher_store(corpus / "test.jsonl", distilled, cache)


def test_the_teacher_store_works_like_any_other(
    corpus: Path, distilled: Recipe, cache: Path, tmp_path: Path
) -> None:
    path = write_teacher_store(corpus, distilled, cache).path
    change_response(corpus, "Oh.")
    write_teacher_store(corpus, distilled, cache)  # a second part, one clip of the first superseded
    before = {i: FeatureStore(path).frames(i).copy() for i in FeatureStore(path).ids}
    assert all(check.is_intact for check in verify_cache(cache))
    compact_cache(cache, 1 << 20)
    (summary,) = (s for s in cache_info(cache) if s.encoder == "teacher")
    assert (summary.clips, summary.parts, summary.hours, summary.frame_size) == (11, 1, None, 17)
    assert list_clips(path)[0].seconds is None
    assert path.name not in [report.store.name for report in compare_audio(cache, corpus)]
    export_store(path, tmp_path / "teacher.h5", silent)
    import_store(tmp_path / "teacher.h5", tmp_path / "elsewhere", silent)
    store = FeatureStore(tmp_path / "elsewhere" / path.name)
    assert store.ids == before.keys()
    assert all((store.frames(i) == frames).all() for i, frames in before.items())
    damaged = next((cache / path.name).glob("part-*")) / "frames" / "c" / "0" / "0"
    content = bytearray(damaged.read_bytes())
    content[5] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(StoreError, match="do not match their checksum"):
        train(distilled, corpus, cache, tmp_path / "run")
    assert json.dumps(vars(cache_info(tmp_path / "elsewhere")[0]))
