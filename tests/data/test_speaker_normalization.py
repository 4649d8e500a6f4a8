"""Speaker normalization: statistics by speaker, split and speed; errors; runs that use it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rellm_cache as rellm
from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.data.batch import Example
from rellm_cache.data.collate import collate
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import ConfigError, ManifestError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate, evaluate_by_workers
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.runs.folder import recipe_differences
from rellm_cache.serving.served_run import LoadedParts, ServedRun
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.store.quantization import ChannelStatistics
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter
from rellm_cache.training.run import train
from rellm_cache.utils.console import say_once
from rellm_cache.workers.options import WorkerOptions

NORMALIZED = EncoderConfig("prosody", speaker_normalization=True)
CLIPS = [
    Utterance("a1", "a1.wav", speaker="ann", split="train"),
    Utterance("a2", "a2.wav", speaker="ann", split="train"),
    Utterance("a2@0.9", "a2.wav", speaker="ann", split="train", speed=0.9),
    Utterance("a3", "a3.wav", speaker="ann", split="test"),
    Utterance("b1", "b1.wav", speaker="bo", split="train"),
]


def frames_of(clip: str, layers: int = 0) -> np.ndarray:
    """(L, 4) frames, or (L, K, 4), with a mean and a deviation of their own."""
    random = np.random.default_rng([*clip.encode()])
    shape = (5 + random.integers(9), *([layers] if layers else []), 4)
    return random.normal(random.normal(), 1 + random.random(), shape).astype(np.float16)


def in_memory(layers: int = 0) -> InMemoryFrames:
    spec = EncoderSpec("whisper", "m", layers=tuple(range(1, layers + 1)))
    made = InMemoryFrames(StoreInfo(spec, 4, "none"))
    for clip in CLIPS:
        made.add(clip.id, frames_of(clip.id, layers))
    return made


def normalized(layers: int = 0) -> StreamSet:
    return normalize_speakers(
        StreamSet({"speech": in_memory(layers)}), {"speech": NORMALIZED}, CLIPS
    )


@pytest.mark.parametrize("layers", [0, 3])
def test_the_clips_of_a_speaker_split_and_speed_have_mean_0_and_deviation_1(layers: int) -> None:
    streams = normalized(layers)
    for group in (["a1", "a2"], ["a2@0.9"], ["a3"], ["b1"]):
        values = np.concatenate([streams.values(name) for name in group])
        np.testing.assert_allclose(values.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(values.std(0), 1, atol=2e-3)
        own = np.concatenate([frames_of(name, layers) for name in group]).astype(np.float32)
        own = own.reshape(len(own), -1)
        expected = (own - own.mean(0)) / own.std(0)
        np.testing.assert_allclose(values, expected, atol=4e-3)


def test_batches_have_the_normalized_frames() -> None:
    streams = normalized(2)
    batch = collate([Example("a1"), Example("b1")], streams)
    found = batch.streams["speech"][0, : batch.frame_lengths[0]].double().numpy()
    np.testing.assert_array_equal(found, streams.values("a1"))


def test_frames_of_int8_are_normalized_by_their_values(tmp_path: Path) -> None:
    statistics = ChannelStatistics()
    for clip in CLIPS:
        statistics.add(frames_of(clip.id))
    spec = EncoderSpec("whisper", "m", dtype="int8")
    quantization = statistics.quantization()
    with StoreWriter(tmp_path, StoreInfo(spec, 4, "none"), quantization=quantization) as writer:
        for clip in CLIPS:
            writer.add(clip.id, np.full(32, len(clip.id), np.uint8), frames_of(clip.id))
    stored = StreamSet({"speech": FeatureStore(writer.path)})
    streams = normalize_speakers(stored, {"speech": NORMALIZED}, CLIPS)
    assert streams.base.dtype == np.float16
    assert streams.base.quantization is None
    np.testing.assert_allclose(streams.values("a1"), normalized().values("a1"), atol=0.05)
    # A digest covers all audio of the speaker, because it changes the frames.
    digest = streams.audio_sha256("a1")
    fewer = normalize_speakers(stored, {"speech": NORMALIZED}, CLIPS[:1])
    assert digest not in (stored.audio_sha256("a1"), fewer.audio_sha256("a1"))


def test_a_channel_that_never_changes_becomes_0() -> None:
    made = InMemoryFrames(StoreInfo(EncoderSpec("prosody"), 1, "none"))
    made.add("a1", np.full((6, 1), 3.0))
    streams = normalize_speakers(StreamSet({"pitch": made}), {"pitch": NORMALIZED}, CLIPS[:1])
    assert not streams.values("a1").any()


def test_other_streams_stay_as_they_are() -> None:
    both = StreamSet({"speech": in_memory(), "pitch": in_memory()})
    encoders = {"speech": replace(NORMALIZED, speaker_normalization=False), "pitch": NORMALIZED}
    streams = normalize_speakers(both, encoders, CLIPS)
    assert streams.sources["speech"] is both.sources["speech"]
    assert streams.sources["pitch"] is not both.sources["pitch"]


def test_a_clip_without_speaker_is_named() -> None:
    clips = [CLIPS[0], replace(CLIPS[1], speaker="")]
    with pytest.raises(ManifestError, match=r"'a2': found no speaker.*add `speaker`"):
        normalize_speakers(StreamSet({"speech": in_memory()}), {"speech": NORMALIZED}, clips)


def test_speakers_of_few_clips_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    normalized()
    assert "Warning: 2 speakers have fewer than 5 clips, as 'ann'" in capsys.readouterr().err


def test_recipes_differ_by_it_and_older_digests_stay() -> None:
    plain = load_recipe("emobox")
    encoder = replace(plain.encoders["speech"], speaker_normalization=True)
    other = replace(plain, encoders=plain.encoders | {"speech": encoder})
    assert encoder.spec == plain.encoders["speech"].spec  # the same store
    assert "speaker_normalization" not in identity_toml(plain)
    assert "speaker_normalization = true" in identity_toml(other)
    assert recipe_differences(other, plain) == [
        "encoders.speech.speaker_normalization: wanted True, found False"
    ]


@pytest.fixture
def speakers(corpus: Path) -> Path:
    """The corpus of tones; two clips in turn have the same speaker."""
    for split in corpus.glob("*.jsonl"):
        rows = [json.loads(line) for line in split.read_text("utf-8").splitlines()]
        lines = [json.dumps({**row, "speaker": f"s{i // 2}"}) for i, row in enumerate(rows)]
        split.write_text("\n".join(lines) + "\n", "utf-8")
    return corpus


def test_runs_train_on_normalized_frames_and_hear_manifests_alone(
    speakers: Path, recipe: Recipe, tmp_path: Path
) -> None:
    encoders = {n: replace(e, speaker_normalization=True) for n, e in recipe.encoders.items()}
    recipe = replace(recipe, losses=replace(recipe.losses, response_lm=0.0))
    own = replace(recipe, encoders=encoders)
    cache, test = tmp_path / "cache", speakers / "test.jsonl"
    extract(speakers, recipe, cache)  # the cache does not depend on it
    plain = train(recipe, speakers, cache, tmp_path / "plain")
    report = train(own, speakers, cache, tmp_path / "run")
    assert report.validation["loss"] != plain.validation["loss"]

    evaluate(report.out, test, cache)
    assert "frames normalized by speaker" in (report.out / "report.html").read_text("utf-8")
    one = json.loads((report.out / "scores.json").read_text("utf-8"))
    options, workers = EvaluationOptions(), WorkerOptions(workers=1)
    evaluate_by_workers(report.out, test, cache, options, tmp_path / "two", workers)
    two = json.loads((tmp_path / "two/scores.json").read_text("utf-8"))
    assert one["head"] == two["head"]
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-5)
    answers = generate(report.out, test, tmp_path / "answers.jsonl", cache)
    assert [answer.id for answer in answers] == [u.id for u in read_manifests(test)]

    # Fewer clips of the speakers give other frames, and so other fingerprints.
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(test.read_text("utf-8").splitlines()[0], "utf-8")
    shutil.copy(tmp_path / "answers.jsonl", tmp_path / "again.jsonl")
    (again,) = generate(report.out, fewer, tmp_path / "again.jsonl", cache, overwrite=True)
    assert again.emotion_probabilities != answers[0].emotion_probabilities

    sound = next(iter((tmp_path / "audio").iterdir()))
    for alone in (
        lambda: rellm.load_run(report.out),
        lambda: generate(report.out, sound, tmp_path / "sound.jsonl", cache),
        lambda: generate(report.out, test, tmp_path / "live.jsonl", cache, from_audio=True),
        lambda: ServedRun(report.out, "run", LoadedParts()),
    ):
        with pytest.raises(ConfigError, match=r"hears clips one by one.*all clips of a speaker"):
            alone()
