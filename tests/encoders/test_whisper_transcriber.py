"""Whisper transcriber: languages, limits, batches, and required files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperModel

from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.encoders.whisper_transcriber import WhisperTranscriber, resolve_transcriber
from rellm_cache.errors import AudioError, ConfigError

CPU = torch.device("cpu")
LETTERS = set("abcdefghijklmnopqrstuvwxyz .")


def noise(seconds: float, seed: int) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(16_000 * seconds))
    return samples.astype(np.float32)


def spec_of(folder: Path, max_tokens: int = 8) -> TranscriberSpec:
    return TranscriberSpec(model=str(folder), max_tokens=max_tokens)


def edited(folder: Path, to: Path, name: str, key: str, value: object) -> Path:
    """A copy of a model folder with one value of one of its JSON files changed, None to remove."""
    shutil.copytree(folder, to)
    document = json.loads((to / name).read_text())
    document.pop(key, None)
    if value is not None:
        document[key] = value
    (to / name).write_text(json.dumps(document))
    return to


def test_texts_have_no_special_tokens_and_cut_ones_are_marked(writer_folder: Path) -> None:
    (said,) = WhisperTranscriber(spec_of(writer_folder), CPU).transcribe([noise(1.5, 1)])
    assert said.text
    assert set(said.text) <= LETTERS
    assert said.text == said.text.strip()
    assert said.cut
    (longer,) = WhisperTranscriber(spec_of(writer_folder, 12), CPU).transcribe([noise(1.5, 1)])
    assert longer.text.startswith(said.text)
    assert len(longer.text) > len(said.text)


def test_no_speech_gives_an_empty_text(writer_folder: Path, tmp_path: Path) -> None:
    silenced = edited(
        writer_folder,
        tmp_path / "silenced",
        "generation_config.json",
        "suppress_tokens",
        [i for i in range(33) if i != 28],  # all but the end
    )
    (said,) = WhisperTranscriber(spec_of(silenced), CPU).transcribe([noise(1.5, 1)])
    assert (said.text, said.cut) == ("", False)


def test_texts_do_not_depend_on_the_batch(writer_folder: Path) -> None:
    model = WhisperTranscriber(spec_of(writer_folder), CPU)
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 2.5, 7.0))]
    alone = [said for clip in clips for said in model.transcribe([clip])]
    assert model.transcribe(clips) == alone


def test_more_than_30_seconds_is_refused(writer_folder: Path) -> None:
    model = WhisperTranscriber(spec_of(writer_folder), CPU)
    with pytest.raises(AudioError, match=r"clip of 30.50 s: Whisper takes 30 s at most"):
        model.transcribe([noise(30.5, 1)])


def prompt(folder: Path, spec: TranscriberSpec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that the decoder is given to begin with."""
    seen: list[list[int]] = []
    forward = WhisperForConditionalGeneration.forward

    def watched(self: object, *args: object, **kwargs: Any) -> object:
        seen.append(kwargs["decoder_input_ids"][0].tolist())
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WhisperForConditionalGeneration, "forward", watched)
        WhisperTranscriber(spec, CPU).transcribe([noise(1.0, 1)])
    words = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    names = {token["id"]: token["content"] for token in words}
    return [names[token] for token in seen[0]]


def test_an_english_model_gets_no_language(
    writer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = prompt(writer_folder, spec_of(writer_folder), monkeypatch)
    assert begun == ["<|startoftranscript|>", "<|notimestamps|>"]


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_multilingual_model_gets_language_and_task(
    languages_folder: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(spec_of(languages_folder), language=language)
    begun = prompt(languages_folder, spec, monkeypatch)
    assert begun == [
        "<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>",
    ]  # fmt: skip


def test_an_unknown_language_is_refused(writer_folder: Path, languages_folder: Path) -> None:
    for folder, known in ((writer_folder, "en"), (languages_folder, "de, en")):
        with pytest.raises(ConfigError, match=rf"language = 'fr': .* knows {known}$"):
            WhisperTranscriber(replace(spec_of(folder), language="fr"), CPU)


def test_a_limit_beyond_the_model_is_refused(writer_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens = 29: .* has room for 28"):
        WhisperTranscriber(spec_of(writer_folder, 29), CPU)


def test_an_encoder_without_a_decoder_is_refused(whisper_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"generation_config.json is missing"):
        WhisperTranscriber(spec_of(whisper_folder), CPU)


def test_a_checkpoint_that_lacks_weights_is_refused(writer_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(writer_folder, tmp_path / "half")
    model = WhisperModel.from_pretrained(writer_folder)
    del model.decoder.layers[0].fc1
    model.save_pretrained(tmp_path / "half")
    with pytest.raises(ConfigError, match=r"half: the checkpoint lacks .*fc1"):
        WhisperTranscriber(spec_of(tmp_path / "half"), CPU)


def test_a_folder_without_is_multilingual_is_refused(writer_folder: Path, tmp_path: Path) -> None:
    mute = edited(
        writer_folder, tmp_path / "mute", "generation_config.json", "is_multilingual", None
    )
    with pytest.raises(ConfigError, match=r"generation_config.json: found no 'is_multilingual'"):
        WhisperTranscriber(spec_of(mute), CPU)


def test_the_digest_covers_tokenizer_and_generation_config(
    writer_folder: Path, tmp_path: Path
) -> None:
    spec = resolve_transcriber(spec_of(writer_folder))
    for name in ("generation_config.json", "tokenizer.json"):
        other = edited(writer_folder, tmp_path / name, name, "note", "changed")
        assert resolve_transcriber(spec_of(other)).weights_sha256 != spec.weights_sha256
    with pytest.raises(ConfigError, match=r"the recipe pins 000000000000"):
        resolve_transcriber(replace(spec, weights_sha256="0" * 64))


def test_settings_in_a_model_folder_do_not_steer_decoding(
    writer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(writer_folder, tmp_path / "steered")
    path = tmp_path / "steered" / "generation_config.json"
    steering = {
        "no_repeat_ngram_size": 1, "min_length": 50, "repetition_penalty": 9.0, "temperature": 0.5,
        "bad_words_ids": [[n] for n in range(20)], "forced_eos_token_id": 28, "num_beams": 3,
        "num_return_sequences": 2, "sequence_bias": [[[5], 50.0]], "max_time": 1e-9,
        "return_dict_in_generate": True, "output_scores": True, "stop_strings": ["a"],
    }  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | steering))
    clips = [noise(1.5, 1), noise(1.0, 2)]
    steered = WhisperTranscriber(spec_of(tmp_path / "steered"), CPU).transcribe(clips)
    assert steered == WhisperTranscriber(spec_of(writer_folder), CPU).transcribe(clips)
