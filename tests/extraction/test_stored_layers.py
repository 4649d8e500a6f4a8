"""Extraction of several layers at once, and streams that find their layers in existing stores."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from miniature.kills import KILLED_EXTRACTION
from miniature.tones import change_audio

from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.data.streams import open_streams
from rellm_cache.errors import ConfigError
from rellm_cache.extraction.run import extract
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.planning.plan import plan
from rellm_cache.store.format import list_stores
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.console import silent
from rellm_cache.utils.devices import default_device

Checksums = Callable[[Path], dict[str, int]]
Layers = tuple[int, ...] | str


def with_layers(recipe: Recipe, layers: Layers) -> Recipe:
    """The recipe with several layers of its speech stream."""
    speech = replace(recipe.encoders["speech"], layer=-1, layers=layers)
    return replace(recipe, encoders={**recipe.encoders, "speech": speech})


def with_layer(recipe: Recipe, layer: int) -> Recipe:
    """The recipe with one layer of its speech stream."""
    speech = replace(recipe.encoders["speech"], layer=layer, layers=())
    return replace(recipe, encoders={**recipe.encoders, "speech": speech})


def test_each_layer_is_that_of_its_own_store(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    layers = (0, 1, 2, -1)
    (report,) = extract(corpus, with_layers(speech_recipe, layers), tmp_path / "all")
    store = FeatureStore(report.path)
    assert report.path.name.startswith("tiny-whisper-layers0-2+last-")
    assert (store.spec.layer_numbers, store.spec.blocks) == (layers, 2)
    for layer in layers:
        (alone,) = extract(corpus, with_layer(speech_recipe, layer), tmp_path / "alone")
        one, own = store.select((layer,)), FeatureStore(alone.path)
        assert one.spec == own.spec
        for name in own.ids:
            assert one.verified_frames(name).tobytes() == own.verified_frames(name).tobytes()
            assert one.audio_sha256(name) == own.audio_sha256(name)


def test_all_layers_of_two_encoders_with_dimensions(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    encoders = {name: replace(e, layers="all") for name, e in recipe.encoders.items()}
    both = replace(recipe, encoders=encoders)
    found = plan(corpus, both, tmp_path / "cache", clips=2)
    reports = extract(corpus, both, tmp_path / "cache")
    streams = open_streams(both.encoders, tmp_path / "cache")
    assert streams.layers == {"speech": (0, 1, 2), "emotion": (0, 1, 2)}
    assert streams.sizes == {"speech": 48, "emotion": 48}
    for stream, report in zip(found.extraction.streams, reports, strict=True):
        store = FeatureStore(report.path)
        frames = int(store.lengths([*store.ids]).sum()) * 2 * 48
        assert (stream.store, stream.frame_size) == (str(report.path), 48)
        assert stream.bytes == pytest.approx(frames + 11 * 72, rel=0.02)
    assert FeatureStore(reports[1].path).vad("tones/00") is not None


def test_a_layer_is_found_in_a_store_that_has_it(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    (every,) = extract(corpus / "train.jsonl", with_layers(speech_recipe, "all"), cache)
    one = with_layer(speech_recipe, 1)
    capsys.readouterr()
    found = plan(corpus, one, cache)
    said = f"speech: layer 1 of {every.path}, which has layers 0-2"
    assert said in capsys.readouterr().err
    (stream,) = found.extraction.streams
    assert (stream.store, stream.missing, stream.frame_size) == (str(every.path), 4, 16)
    assert stream.bytes > 3 * 16 * 2 * 50  # the missing clips get all layers
    (report,) = extract(corpus, one, cache)
    assert said in capsys.readouterr().err
    assert (report.path, report.encoded, report.present) == (every.path, 4, 7)
    assert list(list_stores(cache)) == [every.path]
    (source,) = open_streams(one.encoders, cache).sources.values()
    assert source.frames("tones/00").shape == (source.lengths(["tones/00"])[0], 16)
    (two,) = extract(corpus, with_layers(speech_recipe, (0, 2)), cache)
    assert (two.path, two.encoded) == (every.path, 0)
    assert "speech: layers 0, 2 of " in capsys.readouterr().err


def test_a_store_that_lacks_a_layer_is_named(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    (some,) = extract(corpus / "test.jsonl", with_layers(speech_recipe, (0, 1)), cache)
    (more,) = extract(corpus / "test.jsonl", with_layers(speech_recipe, (1, 2, -1)), cache)
    assert more.path != some.path
    assert (
        f"speech: {some.path} lacks layers 2, -1; a new store gets layers 1-2, -1"
        in capsys.readouterr().err
    )


def test_layers_that_the_model_lacks_are_refused(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="layer 3 does not exist; expected 0 to 2, or -1"):
        extract(corpus, with_layers(speech_recipe, (1, 3)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_changed_audio_replaces_every_layer(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    every = with_layers(speech_recipe, "all")
    (report,) = extract(corpus, every, tmp_path / "cache")
    before = FeatureStore(report.path).verified_frames("tones/03")
    change_audio(corpus, 3)
    (report,) = extract(corpus, every, tmp_path / "cache")
    assert (report.encoded, report.changed) == (1, 1)
    after = FeatureStore(report.path).verified_frames("tones/03")
    assert not any(np.array_equal(after[:, k], before[:, k]) for k in range(3))


def test_a_kill_leaves_whole_clips_and_a_rerun_completes_them(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> None:
    every = with_layers(speech_recipe, "all")
    recipe_file = tmp_path / "recipe.toml"
    recipe_file.write_text(to_toml(every))
    assert load_recipe(recipe_file) == every
    killed = [
        sys.executable,
        "-c",
        KILLED_EXTRACTION,
        str(corpus),
        str(recipe_file),
        str(tmp_path / "cache"),
    ]
    assert subprocess.run(killed, check=False).returncode == -9
    (path,) = list_stores(tmp_path / "cache")
    assert len(checksums(path)) == 5
    (report,) = extract(corpus, every, tmp_path / "cache", batch_size=2)
    assert (report.encoded, report.present, report.path) == (6, 5, path)
    assert not (tmp_path / "cache/.writing").exists()
    (undisturbed,) = extract(corpus, every, tmp_path / "other", batch_size=2)
    assert checksums(path) == checksums(undisturbed.path)
    assert check_store(path, silent).is_intact


def test_a_clip_encoded_live_has_the_stored_frames(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    every = with_layers(speech_recipe, (1, 2))
    extract(corpus, every, tmp_path / "cache")
    stored = open_streams(every.encoders, tmp_path / "cache")
    (utterance, *_) = read_manifests(corpus / "test.jsonl")
    live = LiveEncoders(every.encoders, default_device()).streams([utterance], DEFAULT_LIMITS)
    assert live.sizes == stored.sizes == {"speech": 32}
    np.testing.assert_array_equal(live.values(utterance.id), stored.values(utterance.id))
