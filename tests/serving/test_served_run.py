"""Served runs: shared models, names, runs that read text, and runs that cannot be served."""

import base64
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from live_server import SETTINGS, TinyRuns, run_server

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import TextConfig
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS
from rellm_cache.corpus.manifest import read_manifest
from rellm_cache.errors import ConfigError, RellmError, RunError
from rellm_cache.model.conversation import Turn
from rellm_cache.runs.weights import run_recipe
from rellm_cache.serving.conversation import Conversation
from rellm_cache.serving.names import run_names
from rellm_cache.serving.page import write_examples
from rellm_cache.serving.served_run import KEPT_CLIPS, read_speech
from rellm_cache.serving.server import load_runs


def test_models_are_loaded_once(tiny_runs: TinyRuns) -> None:
    one, other = load_runs([tiny_runs.hears, tiny_runs.plain])
    assert one._responder.llm is other._responder.llm
    assert one._encoders is not None
    assert other._encoders is not None
    assert one._encoders._encoders["speech"] is other._encoders._encoders["speech"]
    assert (one.transcribes, other.transcribes) == (True, False)


def test_a_clip_is_heard_once(tiny_runs: TinyRuns) -> None:
    (run,) = load_runs([tiny_runs.plain])
    clip = read_speech(tiny_runs.clip.read_bytes(), "a.wav", DEFAULT_LIMITS)
    heard = run.hear(clip)
    assert run.hear(clip) is heard
    for index in range(KEPT_CLIPS):
        key = bytes([index]) * 32
        run._heard[key] = heard
    assert run.hear(clip) is heard
    first, second = run.spoken_turn(heard), Turn(("And now?",))
    reply = run.reply([first])
    later = run.reply([first, Turn((reply.continuation.text,)), second])
    assert later.prompt_tokens > reply.prompt_tokens
    assert run.reply([first]) == reply


def test_a_run_that_reads_text_hears_by_its_transcriber(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    recipe = replace(run_recipe(tiny_runs.hears), name="reads", text=TextConfig("whisper"))
    folder = tmp_path / "reads"
    folder.mkdir()
    (folder / "recipe.toml").write_text(to_toml(recipe))
    (run,) = load_runs([folder])
    heard = run.hear(read_speech(tiny_runs.clip.read_bytes(), "a.wav", DEFAULT_LIMITS))
    assert heard.transcript
    assert (heard.recognition, heard.states) == (None, None)
    assert run.spoken_turn(heard).texts == (heard.transcript,)
    assert run.spoken_turn(heard, "Why?").texts == (f"{heard.transcript}\nWhy?",)
    assert run.reply([run.spoken_turn(heard)]).continuation.ids
    for changed, message in (
        (replace(recipe, text=TextConfig("whisper", gold_emotion=True)), "text.gold_emotion"),
        (replace(recipe, text=TextConfig("corpus"), transcriber=None), r"has no \[transcriber\]"),
    ):
        (folder / "recipe.toml").write_text(to_toml(changed))
        with pytest.raises(ConfigError, match=message):
            load_runs([folder])


def test_names_tell_runs_apart() -> None:
    assert run_names([Path("runs/demo/small")]) == ["small"]
    assert run_names([Path("a/small"), Path("b/small")]) == ["a/small", "b/small"]
    assert run_names([Path("a/b"), Path("a/c")]) == ["b", "c"]
    with pytest.raises(RunError, match="given twice"):
        run_names([Path("a/b"), Path("a/../a/b")])


def test_what_cannot_be_served_is_named(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="found 3 runs, expected one, or two"):
        load_runs([tiny_runs.hears, tiny_runs.plain, tmp_path])
    with pytest.raises(RunError, match="not the folder of a finished run"):
        load_runs([tmp_path])
    with pytest.raises(ConfigError, match=r"only prompts\.\*"):
        load_runs([tiny_runs.hears], ["heads.dropout=0"])


def test_examples_are_clips_of_the_scored_manifest(
    tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_runs.plain, tmp_path / "scored")
    (run,) = load_runs([folder])
    assert write_examples([run], tmp_path) == []
    test = tiny_runs.manifest / "test.jsonl"
    (folder / "scores.json").write_text(json.dumps({"manifest": str(test)}))
    examples = write_examples([run], tmp_path)
    assert [label for _, label in examples] == [
        "surprise: This is tone number 0.",
        "neutral: This is tone number 1.",
    ]
    clip = read_speech(examples[0][0].read_bytes(), "a.wav", DEFAULT_LIMITS)
    np.testing.assert_array_equal(clip.waveform, load_clip(read_manifest(test)[0]).waveform)
    (folder / "scores.json").write_text(json.dumps({"manifest": str(tmp_path / "gone.jsonl")}))
    assert write_examples([run], tmp_path) == []
    assert "no example clips" in capsys.readouterr().err


def test_a_run_without_llm_tells_the_emotion_alone(tiny_runs: TinyRuns, uploads: Path) -> None:
    runs = load_runs([tiny_runs.mute])
    assert not runs[0].answers
    data = base64.b64encode(tiny_runs.clip.read_bytes()).decode()
    audio = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    with contextmanager(run_server)(runs, SETTINGS, uploads) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        def ask(content: Any) -> Any:
            return client.chat.completions.create(
                model="mute", messages=[{"role": "user", "content": content}]
            )

        answer = ask([audio])
        assert answer.choices[0].message.content == ""
        assert answer.rellm["emotion"] in answer.rellm["probabilities"]
        with pytest.raises(openai.BadRequestError, match="this run has no LLM"):
            ask("Hello")
    talk = Conversation()
    clip = read_speech(tiny_runs.clip.read_bytes(), "a.wav", DEFAULT_LIMITS)
    talk.say(runs[0], clip, "", lambda _: None)
    assert [message.speaker for message in talk.messages] == ["user"]
    talk.say(runs[0], None, "Hello", lambda _: None)
    assert [message.text for message in talk.messages] == ["", "Hello", ""]
    assert talk.messages[2].note == "This run has no LLM, so it does not answer."

    def leave(_: None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.say(runs[0], clip, "", leave)
    assert len(talk.messages) == 3  # a turn that was not finished is not kept
