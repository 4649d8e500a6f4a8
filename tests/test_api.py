"""Public API: light to import, complete in its lists, equal to the commands."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import S3

import rellm_cache as rellm
from rellm_cache.cli.commands import rellm as command
from rellm_cache.config.plugins import CORPORA
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError, ManifestError, StoreError

HEAVY = ("torch", "zarr", "click", "transformers", "numpy", "soundfile")


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, rellm_cache as rellm; dir(rellm); print(sorted(sys.modules))"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert "rellm_cache.errors" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_recipe_loads_without_torch() -> None:
    code = "import sys, rellm_cache as r; r.load_recipe('small'); print(sorted(sys.modules))"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert [name for name in ("torch", "zarr", "click") if name in loaded] == []


def test_every_name_is_known_to_python_and_to_type_checkers() -> None:
    source = ast.parse(Path(rellm.__file__).read_text("utf-8"))
    typed = {
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rellm_cache")
        for alias in node.names
    }
    assert typed - {"__version__"} == set(rellm.__all__)
    for name in rellm.__all__:
        assert getattr(rellm, name).__doc__, name
        assert name in dir(rellm)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rellm.trian  # noqa: B018


def test_a_run_of_the_command_has_the_same_bits(
    speech_recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    file, cache, own = tmp_path / "recipe.toml", tmp_path / "cache", tmp_path / "own"
    file.write_text(to_toml(speech_recipe))
    (report,) = rellm.extract(file, str(corpus), str(cache))
    assert (report.encoded, report.failed) == (11, 0)
    trained = rellm.train(file, corpus, cache, out=own, set={"training.epochs": 1, "seed": 2})
    words = f"train --recipe {file} --manifest {corpus} --cache {cache} --out {tmp_path / 'run'}"
    changes = ["--set", "training.epochs=1", "--set", "seed=2"]
    CliRunner().invoke(command, [*words.split(), *changes], catch_exceptions=False)
    for name in ("adapter.safetensors", "recipe.toml"):
        assert (own / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    scores = rellm.evaluate(own, corpus / "test.jsonl", out=str(tmp_path / "scores"))
    assert scores.clips == 2
    assert (tmp_path / "scores/report.html").exists()
    found = rellm.plan(speech_recipe, corpus, cache, clips=1)
    assert (found.needed_bytes, found.clips, trained.steps) == (0, 11, 1)


def test_callbacks_are_passed_on(speech_recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    class StopAtTwo(rellm.Callback):
        def on_step(self, step: rellm.StepReport) -> Any:
            return rellm.STOP if step.step == 2 else None

    rellm.extract(speech_recipe, corpus, tmp_path / "cache")
    out = tmp_path / "run"
    report = rellm.train(
        speech_recipe, corpus, tmp_path / "cache", out=out, callbacks=[StopAtTwo()]
    )
    assert (report.steps, report.stopped) == (2, "StopAtTwo returned STOP")


def test_a_sweep_of_a_loaded_recipe(speech_recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    recipe = replace(speech_recipe, training=replace(speech_recipe.training, epochs=1))
    rellm.extract(recipe, corpus, tmp_path / "cache")
    report = rellm.sweep(
        recipe,
        corpus,
        tmp_path / "cache",
        out=tmp_path / "sweep",
        set={"training": {"learning_rate": 1e-3}},
        variants={"mean": {"losses.vad": 0.0, "adapter.dropout": 0.1}},
        seeds=[5],
    )
    assert [(run.variant, run.seed, run.error) for run in report.runs] == [
        ("baseline", 5, ""),
        ("mean", 5, ""),
    ]
    described = report.to_json()
    assert described["recipe"] == "speech"
    assert described["variants"]["mean"] == ["losses.vad=0.0", "adapter.dropout=0.1"]


def test_corpora_are_prepared_by_name(corpus: Path, tmp_path: Path) -> None:
    with CORPORA.restored():

        @rellm.register_corpus("tones")
        def read(root: Path, options: None) -> rellm.Corpus:
            clips = sorted(root.glob("*.wav"))
            found = [rellm.Utterance(f"tones/{c.stem}", str(c), split="train") for c in clips]
            return rellm.Corpus("tones", found)

        audio = corpus.parent / "audio"
        report = rellm.prepare("tones", audio, tmp_path / "out", max_seconds=2.5)
        assert report.kept == {"train": 9}
        with pytest.raises(ConfigError, match="corpus 'tones': found no root"):
            rellm.prepare("tones", out=tmp_path / "out")
        with pytest.raises(ConfigError, match="'tones' has no options"):
            rellm.prepare("tones", audio, tmp_path / "out", seed=3)
    with pytest.raises(ConfigError, match="no corpus is named 'tones'"):
        rellm.prepare("tones", audio, tmp_path / "out")


def test_a_table_is_prepared(corpus: Path, tmp_path: Path) -> None:
    table = corpus.parent / "audio" / "table.csv"
    table.write_text("audio,feeling,arousal,dominance,valence\n00.wav,sad,1,3,5\n01.wav,happy,,,\n")
    report = rellm.prepare(
        "folder", str(table), tmp_path / "out", emotion_column="feeling", vad_scale=(1, 5)
    )
    assert report.survey.emotions == {"train": {"sad": 1, "happy": 1}}
    assert read_split(tmp_path / "out", "train")[0].vad == (0.0, 0.5, 1.0)
    with pytest.raises(ConfigError, match="unknown key 'emotions'; did you mean"):
        rellm.prepare("folder", table, tmp_path / "out", emotions="feeling")
    with pytest.raises(ConfigError, match=r"vad_scale = \(1\.0,\): expected lowest and highest"):
        rellm.prepare("folder", table, tmp_path / "out", vad_scale=[1])


def test_a_recipe_is_changed_and_the_given_one_is_not(speech_recipe: Recipe) -> None:
    found = rellm.load_recipe(speech_recipe, {"heads": {"emotions": ["sad", "happy"]}})
    assert found.heads.emotions == ("sad", "happy")
    assert replace(found, heads=speech_recipe.heads) == speech_recipe
    assert rellm.load_recipe(speech_recipe) is speech_recipe
    texts = rellm.load_recipe("heads", ["training.epochs=3", "llm=none"])
    assert texts == rellm.load_recipe("heads", {"training.epochs": 3, "llm": None})
    with pytest.raises(ConfigError, match=r"unknown key 'epoch'; did you mean 'epochs'\?"):
        rellm.load_recipe(Path("heads"), {"training.epoch": 3})


def test_caches_and_stores_may_be_urls(
    speech_recipe: Recipe, corpus: Path, tmp_path: Path, s3: S3
) -> None:
    (report,) = rellm.extract(speech_recipe, corpus, s3.url)
    s3.forget_copies()
    url = f"{s3.url}/{report.path.name}"
    rellm.extract(speech_recipe, corpus, tmp_path / "cache")
    here = rellm.open_store(tmp_path / "cache" / report.path.name)
    there = rellm.open_store(url)
    assert sorted(there.ids) == sorted(here.ids)
    assert repr(there).startswith(f"Store('{url}': 11 clips")
    for name in here:
        np.testing.assert_array_equal(there[name], here[name])
    (batch, *_) = rellm.loader(speech_recipe, corpus, s3.url, shuffle=False)
    assert batch.ids == ("tones/00", "tones/01")
    with pytest.raises(StoreError, match="no such store"):
        rellm.open_store(f"{s3.url}/prosody-1d0f958b8571")


def test_other_urls_are_refused(speech_recipe: Recipe, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://b/m: only caches and stores may be URLs"):
        rellm.train(speech_recipe, "s3://b/m", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="s3://b/run: only caches"):
        rellm.load_run("s3://b/run")
    with pytest.raises(ManifestError, match=r"test\.jsonl: found no folder"):
        rellm.train(speech_recipe, corpus / "test.jsonl", out=tmp_path / "run")
