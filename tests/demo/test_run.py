"""The demo's steps fit together, with tiny models on a part of its clips."""

import json
import shutil
from pathlib import Path

import pytest

import rellm_cache.demo.run as demo
from rellm_cache.cache_admin.info import cache_info
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.demo.models import SMOLLM2, WHISPER_TINY_EN
from rellm_cache.demo.run import demo_recipes, embedded_clips, run_demo, shown_ids


@pytest.fixture
def cache(tmp_path: Path, whisper_folder: Path, llm_folder: Path) -> Path:
    """A cache root whose models are tiny, under the names of the demo's."""
    for name, folder in ((WHISPER_TINY_EN, whisper_folder), (SMOLLM2, llm_folder)):
        shutil.copytree(folder, tmp_path / "cache/models" / name)
    return tmp_path / "cache"


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, llm_folder: Path) -> None:
    """The shown clips and one clip of each emotion of two more voices; one epoch each."""
    shown = set(shown_ids())
    kept = [
        clip
        for clip in embedded_clips()
        if clip.id in shown or (clip.speaker in ("mia", "ivy") and clip.id.endswith("-1"))
    ]
    size = json.loads((llm_folder / "config.json").read_text("utf-8"))["hidden_size"]
    common = ("encoders.speech.layer=1", "training.epochs=1")
    own = {"small": ('llm.quantization="none"', "prompts.answer_tokens=4")}

    def recipes(out: Path) -> dict[str, Recipe]:
        return {
            name: load_recipe(recipe, (*common, *own.get(name, (f"adapter.output_size={size}",))))
            for name, recipe in demo_recipes(out).items()
        }

    monkeypatch.setattr(demo, "embedded_clips", lambda: kept)
    monkeypatch.setattr(demo, "demo_recipes", recipes)
    monkeypatch.setenv("RELLM_MODELS", "")  # the demo sets it; this restores it


@pytest.mark.usefixtures("small_demo")
def test_runs_and_continues(tmp_path: Path, cache: Path) -> None:
    said: list[str] = []
    report = run_demo(cache, tmp_path / "demo", said.append)
    assert [line.split(":")[0] for line in said] == [
        "models",
        "prepare",
        "extract",
        "train heads, both streams",
        "train heads, speech stream alone",
        "train speech LLM",
        "generate",
        "evaluate",
        "time the cache",
    ]
    assert "5 train, 5 validation, 6 test" in said[1]
    assert list(report.runs) == ["heads", "heads-speech-only", "small"]
    for name, found in report.runs.items():
        assert found.head.low <= found.head.value <= found.head.high
        assert (found.llm is None) == (name != "small")
    assert report.gain.low <= report.gain.value <= report.gain.high
    assert (report.counts.answers, report.counts.pairs) == (6, 3)
    assert [clip.id for clip, _ in report.shown] == [a.id for _, a in report.shown] == shown_ids()
    assert report.report.is_file()
    stores = {store.name: store.bytes for store in cache_info(cache)}
    assert report.cache_bytes == sum(stores.values())
    shutil.copytree(cache / next(iter(stores)), cache / "other-2534981a18dc")
    again = run_demo(cache, tmp_path / "demo", said.append)
    assert again.cache_bytes == report.cache_bytes
    assert (again.runs, again.counts, again.shown) == (report.runs, report.counts, report.shown)
