"""Trained run in memory: the same from files, arrays and ids; what cannot be used is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import MakeClip

import rellm_cache as rellm
from rellm_cache.config.schema import Recipe, TextConfig
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import AudioError, ConfigError, ManifestError, RunError, StoreError
from rellm_cache.evaluation.predictions import read_predictions
from rellm_cache.evaluation.run import evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.inference.trained_run import Run
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.training.run import train


@pytest.fixture
def path(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    train(quick, corpus, cache, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def clip(corpus: Path) -> Path:
    return corpus.parent / "audio" / "09.wav"


def same(one: rellm.Recognition, other: rellm.Recognition) -> bool:
    assert one.emotion == other.emotion
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert one.dimensions == pytest.approx(other.dimensions, abs=1e-5)
    return True


def test_an_answer_is_that_of_generate(path: Path, clip: Path, tmp_path: Path) -> None:
    (expected,) = generate(path, clip, tmp_path / "one.jsonl")
    answer = rellm.load_run(path).answer(clip)
    assert answer == rellm.Answer(
        expected.response,
        expected.early_stop,
        expected.emotion,
        expected.emotion_probabilities,
        expected.dimensions,
    )
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    short = rellm.load_run(path, set={"prompts": {"answer_tokens": 1}}).answer(clip)
    assert len(short.text) < len(answer.text)


def test_only_answers_load_the_llm(path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    own = SharedModels.llm
    monkeypatch.setattr(
        SharedModels, "llm", lambda self, *given: loaded.append(given) or own(self, *given)
    )
    run = rellm.load_run(path)
    before, vectors = run.recognise(clip), run.embed(clip)
    assert not loaded
    run.answer(clip)
    run.answer(clip)
    assert len(loaded) == 1
    assert same(run.recognise(clip), before)
    np.testing.assert_allclose(run.embed(clip).pooled, vectors.pooled, atol=1e-5)


def test_files_arrays_and_ids_give_the_same(path: Path, clip: Path) -> None:
    run = rellm.load_run(str(path))
    samples, rate = soundfile.read(clip)  # float64
    assert rate == 16_000
    clips = [clip, str(clip), samples, samples.astype(np.float32), torch.tensor(samples)]
    stereo = np.stack([samples, samples], 1)
    utterance = rellm.Utterance("x", str(clip))
    answers = run.answer([*clips, stereo, utterance, "tones/09"])
    assert len({answer.text for answer in answers}) == 1
    found = run.recognise([*clips, "tones/10", stereo, "tones/09", "tones/10"])
    assert all(same(one, found[0]) for i, one in enumerate(found) if i not in (5, 8))
    assert found[5] == found[8]
    assert found[5] != found[0]
    embeddings = run.embed((clip, "tones/09"))
    for one, other in [embeddings]:
        np.testing.assert_allclose(one.states, other.states, atol=1e-5)
        np.testing.assert_allclose(one.pooled, other.pooled, atol=1e-5)
    assert run.recognise([]) == []


def test_embeddings_are_what_the_heads_read(path: Path, clip: Path) -> None:
    run = rellm.load_run(path)
    found = run.embed(clip)
    frames = len(rellm.open_store(next((path.parent / "cache").glob("tiny-whisper*")))["tones/09"])
    assert found.states.shape == (-(-frames // 8), 32)
    assert (found.states.dtype, found.pooled.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(found.pooled, found.states.mean(0), atol=1e-5)
    segment = rellm.Utterance("x", str(clip), segment=(0.0, 1.0))
    assert len(run.embed(segment).states) < len(found.states)


def test_another_rate_is_resampled_as_a_file_is(path: Path, make_clip: MakeClip) -> None:
    file = make_clip("other.wav", 1.5, rate=44_100)
    samples, rate = soundfile.read(file, dtype="float32")
    run = rellm.load_run(path)
    assert run.recognise(samples, sampling_rate=rate) == run.recognise(file)
    assert run.recognise(samples[:16_000]) != run.recognise(file)


TONE = np.sin(np.arange(32_000, dtype=np.float32) / 20)


UNUSABLE: list[tuple[Any, Any, str]] = [
    (np.zeros(0, np.float32), 16_000, "too short, 0.00 s"),
    (TONE[:4000], 16_000, "too short, 0.25 s < 1 s"),
    (np.tile(TONE, 16), 16_000, "too long, 32.00 s > 30 s"),
    (np.where(TONE > 0.9, np.nan, TONE), 16_000, "samples are NaN or infinite"),
    (np.where(TONE > 0.9, np.inf, TONE), 16_000, "values up to inf"),
    ((TONE * 32767).astype(np.int16), 16_000, "found int16 samples, expected float32"),
    (TONE * 32767, 16_000, r"values up to 32767, expected -1\.\.1; divide 16-bit"),
    (np.stack([TONE, TONE]), 16_000, r"found shape \(2, 32000\).*transpose"),
    (TONE.reshape(2, -1, 4), 16_000, r"found shape \(2, 4000, 4\)"),
    (np.array(["a"]), 16_000, "found <U1 samples"),
    (TONE, 0, "sampling_rate = 0: expected 4000 to 384000 Hz"),
    (TONE, 16_000.0, r"sampling_rate = 16000\.0"),
    (3.5, 16_000, "found float, expected the path of a sound file"),
    (None, 16_000, "found NoneType"),
]


def test_unusable_waveforms_are_named(path: Path) -> None:
    run = rellm.load_run(path)
    for samples, rate, message in UNUSABLE:
        with pytest.raises(AudioError, match=rf"waveform \d: .*{message}"):
            run.recognise([TONE, samples], sampling_rate=rate)
    for call in (run.answer, run.embed):
        with pytest.raises(AudioError, match="waveform 0: found int16"):
            call(TONE.astype(np.int16))


def test_what_is_neither_a_file_nor_in_the_cache_is_named(path: Path, tmp_path: Path) -> None:
    run = rellm.load_run(path)
    with pytest.raises(StoreError, match=r"'tones/gone': no sound file has .*, and .*absent"):
        run.answer("tones/gone")
    with pytest.raises(AudioError, match="no such file"):
        run.answer(Path("gone.wav"))
    with pytest.raises(AudioError, match="cannot be decoded"):
        run.recognise(str(path / "recipe.toml"))
    elsewhere = rellm.load_run(path, cache=tmp_path / "no-cache")
    with pytest.raises(StoreError, match="no-cache: this cache folder does not exist"):
        elsewhere.embed("tones/09")
    with pytest.raises(RunError, match="not the folder of a finished run"):
        rellm.load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"heads\.dropout=0.*only prompts"):
        rellm.load_run(path, set={"heads.dropout": 0})


def test_a_run_without_llm_recognises_but_does_not_answer(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, clip: Path
) -> None:
    rellm.extract(speech_recipe, corpus, tmp_path / "cache")
    rellm.train(speech_recipe, corpus, tmp_path / "cache", out=tmp_path / "run")
    run = rellm.load_run(tmp_path / "run")
    assert same(run.recognise(clip), run.recognise("tones/09"))
    with pytest.raises(ConfigError, match="this run has no LLM, so it cannot answer"):
        run.answer(clip)


def test_a_run_that_reads_text_answers_utterances_only(
    quick: Recipe, corpus: Path, tmp_path: Path, clip: Path
) -> None:
    reads = replace(quick, name="reads", text=TextConfig())
    train(reads, corpus, tmp_path, tmp_path / "run")
    run = rellm.load_run(tmp_path / "run")
    utterances = read_split(corpus, "test")
    expected = generate(tmp_path / "run", corpus / "test.jsonl", tmp_path / "a.jsonl")
    answers = run.answer(utterances)
    assert [a.text for a in answers] == [g.response for g in expected]
    assert (answers[0].emotion, answers[0].probabilities, answers[0].dimensions) == (None, {}, None)
    with pytest.raises(ManifestError, match="reads text; found PosixPath, expected an Utterance"):
        run.answer(clip)
    for call in (run.recognise, run.embed):
        with pytest.raises(ConfigError, match="reads text: it has no adapter and no heads"):
            call(clip)


def test_a_file_that_is_missing_is_named(path: Path, tmp_path: Path, make_clip: MakeClip) -> None:
    make_clip("speech.wav")
    with pytest.raises(AudioError, match=r"speach\.wav: no such sound file.*mean .*speech\.wav\?"):
        Run(path).recognise(str(tmp_path / "speach.wav"))
    with pytest.raises(AudioError, match=r"other\.mp3: no such sound file.*check its path"):
        Run(path).recognise(["other.mp3"])


def test_dimensions_that_were_never_learned_are_not_told(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    for file in corpus.glob("t*.jsonl"):
        file.write_text(file.read_text().replace('"vad"', '"other"'))
    once = replace(quick, training=replace(quick.training, epochs=1))
    train(once, corpus, cache, tmp_path / "blind")
    test = corpus / "test.jsonl"
    answers = generate(tmp_path / "blind", test, tmp_path / "a.jsonl", cache)
    assert [answer.dimensions for answer in answers] == [None, None]
    assert all(answer.emotion for answer in answers)
    evaluate(tmp_path / "blind", test, cache)
    rows = read_predictions(tmp_path / "blind" / "predictions.csv").values()
    assert {row["arousal"] for row in rows} == {""}
    clip = str(corpus.parent / "audio" / "00.wav")
    assert Run(tmp_path / "blind").recognise(clip).dimensions is None
