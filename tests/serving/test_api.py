"""HTTP API: OpenAI's own client, parity with `rellm generate`, and what is refused."""

import base64
import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from live_server import LiveServer, TinyRuns
from tones import tone

from rellm_cache.inference.generate import generate
from rellm_cache.llm.decoding import Decoder


def wav(seconds: float = 1.5, hertz: float = 220.0, channels: int = 1, rate: int = 16_000) -> bytes:
    return encoded(tone(seconds, hertz, rate, channels), rate)


def encoded(
    samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def spoken(data: bytes, text: str = "", kind: str = "wav") -> dict[str, Any]:
    audio = {"data": base64.b64encode(data).decode(), "format": kind}
    parts: list[dict[str, Any]] = [{"type": "input_audio", "input_audio": audio}]
    return {
        "role": "user",
        "content": [*parts, *([{"type": "text", "text": text}] if text else [])],
    }


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: list[Any], model: str = "hears", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **options)


def test_models_are_the_runs(client: openai.OpenAI, server: LiveServer) -> None:
    assert [model.id for model in client.models.list()] == ["hears", "plain"]
    assert client.models.retrieve("plain").owned_by == "rellm"
    with pytest.raises(openai.NotFoundError, match="no run 'other' is served; there is hears, pl"):
        client.models.retrieve("other")
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_an_answer_is_that_of_generate(
    client: openai.OpenAI,
    tiny_runs: TinyRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[int, ...]] = []
    ended = Decoder._ended

    def keep(decoder: Decoder, row: Any) -> Any:
        answer = ended(decoder, row)
        if answer is not None:
            made.append(answer.ids)
        return answer

    monkeypatch.setattr(Decoder, "_ended", keep)
    (expected,) = generate(tiny_runs.hears, tiny_runs.clip, tmp_path / "a.jsonl")
    answer = ask(client, [spoken(tiny_runs.clip.read_bytes())])
    assert len(made) == 2
    assert made[0] == made[1] == tuple(answer.rellm["token_ids"])
    assert answer.choices[0].message.content == expected.response
    assert answer.choices[0].finish_reason == ("length" if expected.early_stop else "stop")
    assert answer.rellm["emotion"] == expected.emotion
    assert answer.rellm["probabilities"] == pytest.approx(expected.emotion_probabilities, abs=1e-5)
    assert answer.rellm["dimensions"] == pytest.approx(expected.dimensions, abs=1e-5)
    assert answer.rellm["seconds"] == pytest.approx(1.7)
    assert answer.usage.completion_tokens == len(made[0])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(made[0])


def test_a_stream_joins_to_the_whole_answer(client: openai.OpenAI, tiny_runs: TinyRuns) -> None:
    messages = [spoken(tiny_runs.clip.read_bytes())]
    whole = ask(client, messages)
    options = {"include_usage": True}
    events = list(ask(client, messages, stream=True, stream_options=options))
    pieces = [e.choices[0].delta.content for e in events if e.choices]
    assert "".join(piece or "" for piece in pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert events[0].rellm["emotion"] == whole.rellm["emotion"]
    assert events[0].rellm["transcript"] == whole.rellm["transcript"]
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert events[-2].rellm["token_ids"] == whole.rellm["token_ids"]
    assert events[-1].usage == whole.usage


def test_only_a_recipe_with_a_transcriber_gives_a_transcript(client: openai.OpenAI) -> None:
    assert ask(client, [spoken(wav())]).rellm["transcript"]
    assert ask(client, [spoken(wav())], "plain").rellm["transcript"] is None


def test_speech_of_earlier_turns_stays(client: openai.OpenAI) -> None:
    first, other = spoken(wav(1.5, 220.0)), spoken(wav(1.5, 440.0))
    reply = {"role": "assistant", "content": "I hear you."}
    later = {"role": "user", "content": "And now?"}
    answer = ask(client, [first, reply, later])
    assert answer.rellm["emotion"] is None  # of the last message, which is text
    one = ask(client, [first])
    alone = ask(client, [later])
    assert answer.usage.prompt_tokens > one.usage.prompt_tokens + alone.usage.prompt_tokens - 40
    assert ask(client, [other, reply, later]).rellm["token_ids"] != answer.rellm["token_ids"]
    kind = ask(client, [{"role": "system", "content": "Be rude, not kind."}, first])
    assert kind.usage.prompt_tokens > one.usage.prompt_tokens


def test_a_question_about_the_speech_comes_after_it(client: openai.OpenAI) -> None:
    plain, asked = ask(client, [spoken(wav())]), ask(client, [spoken(wav(), "Why so?")])
    # the tiny tokenizer has a token for each byte: "\nWhy so?"
    assert asked.usage.prompt_tokens == plain.usage.prompt_tokens + len("\nWhy so?")


def test_other_formats_and_options(client: openai.OpenAI) -> None:
    flac = spoken(encoded(tone(1.5), kind="FLAC"), kind="flac")
    assert ask(client, [flac]).rellm["probabilities"] == pytest.approx(
        ask(client, [spoken(wav())]).rellm["probabilities"], abs=1e-3
    )
    short = ask(client, [spoken(wav())], max_completion_tokens=2)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (2, "length")
    drawn = [
        ask(client, [spoken(wav())], temperature=2.0, seed=seed).rellm["token_ids"]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_two_requests_at_a_time_do_not_mix(client: openai.OpenAI) -> None:
    messages = [[spoken(wav(1.2 + 0.3 * i, 150.0 + 90 * i))] for i in range(3)]
    alone = [ask(client, m).model_extra["rellm"] for m in messages]
    assert len({str(found["token_ids"]) for found in alone}) > 1
    together: dict[int, Any] = {}

    def work(index: int) -> None:
        together[index] = ask(client, messages[index]).model_extra["rellm"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(3)] == alone


EMPTY_WAV = encoded(np.zeros(0, np.float32))
HEADER = wav()[:44]
BAD_AUDIO: list[tuple[str, bytes, str]] = [
    ("empty", b"", "the file is empty"),
    ("no samples", EMPTY_WAV, r"too short, 0\.00 s"),
    ("broken", b"RIFF" + bytes(range(200)), "cannot be decoded|not WAV"),
    ("cut", wav()[:20_000], "truncated|damaged"),
    ("short", wav(0.3), r"too short, 0\.30 s"),
    ("long", wav(20.5), r"too long, 20\.50 s > 20 s"),
    ("eight channels", wav(1.5, channels=8), "found 8 channels, expected 2 at most"),
    ("silent", encoded(np.zeros(32_000, np.float32)), "no signal"),
    ("a page", b"<html><script>alert(1)</script></html>" * 40, "an HTML or XML page"),
    ("an archive", b"PK\x03\x04" + bytes(100), "a compressed archive"),
    ("a pointer", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (
        "not finite",
        encoded(np.full(32_000, np.nan, np.float32), subtype="FLOAT"),
        "32000 samples are NaN or infinite",
    ),
    (
        "huge header",
        HEADER[:40] + b"\xff\xff\xff\x7f" + bytes(4000),
        "too short, 0.12 s",
    ),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_AUDIO, ids=[b[0] for b in BAD_AUDIO])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unusable_speech_is_refused(
    client: openai.OpenAI, name: str, data: bytes, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as error:
        ask(client, [spoken(data)], stream=stream)
    assert error.value.code == "invalid_audio"
    assert "/tmp" not in str(error.value)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "hears", "messages": [{"role": "user", "content": "Hi"}], **changes}


AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
BAD_BODIES: list[tuple[Any, int, str]] = [
    ([], 400, "expected a JSON object"),
    ({}, 400, "model: expected the name of a run"),
    (body(model="other"), 404, "model: no run 'other'"),
    (body(tools=[{}]), 400, "tools: is not supported"),
    (body(n=2), 400, "n: found 2, only 1"),
    (body(temperature=3), 400, "temperature: found 3, expected 0 to 2"),
    (body(temperature=float("nan")), 400, "not JSON|temperature"),
    (body(max_tokens=0), 400, "expected a whole number"),
    (body(stream="yes"), 400, "stream: found 'yes'"),
    (body(messages=[]), 400, "messages: expected a list"),
    (body(messages=["Hi"]), 400, r"messages\[0\]: found 'Hi'"),
    (body(messages=[{"role": "tool", "content": "x"}]), 400, r"messages\[0\]\.role: found 'tool'"),
    (body(messages=[{"role": "user", "content": ""}]), 400, "is empty; expected text or speech"),
    (body(messages=[{"role": "user", "content": None}]), 400, "expected a text, or a list"),
    (body(messages=[{"role": "assistant", "content": "x"}]), 400, "expected 'user'"),
    (body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, "'image_url'"),
    (body(messages=[{"role": "user", "content": [AUDIO, AUDIO]}]), 400, "a second clip"),
    (body(messages=[{"role": "system", "content": [AUDIO]}]), 400, "messages of the user only"),
    (
        body(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        400,
        "expected an object with `data`",
    ),
    (
        body(
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}
                    ],
                }
            ]
        ),
        400,
        "is not base64",
    ),
    (body(messages=[{"role": "user", "content": "x" * 2100}]), 400, "start a new conversation"),
]


@pytest.mark.parametrize(("content", "status", "message"), BAD_BODIES)
def test_a_wrong_request_is_named(
    server: LiveServer, content: Any, status: int, message: str
) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=json.dumps(content))
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert re.search(message, error["message"]), error
    assert error["type"] == "invalid_request_error"


def test_what_is_too_large_or_no_json_is_refused(server: LiveServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    large = httpx.post(url, content=b"x" * 3_000_001)
    assert large.status_code == 413
    assert "expected at most 3 MB" in large.json()["error"]["message"]
    unknown = httpx.post(url, content=iter([b"{}"]))  # in chunks, without a length
    assert unknown.status_code == 411
    for content in (b"{", b"\xff\xfe{", b"[" * 100_000, b'{"a": "\\ud800"}'):
        answer = httpx.post(url, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_full_queue_refuses(server: LiveServer, client: openai.OpenAI) -> None:
    started, release = threading.Event(), threading.Event()

    def block(emit: Any) -> None:
        started.set()
        release.wait(30)

    jobs = [server.worker.start(block)]
    assert started.wait(30)
    jobs += [server.worker.start(block) for _ in range(2)]
    try:
        with pytest.raises(openai.RateLimitError, match="2 requests wait already") as error:
            ask(client, [{"role": "user", "content": "Hi"}])
        assert error.value.response.headers["retry-after"] == "5"
    finally:
        release.set()
    assert [list(job) for job in jobs] == [[], [], []]
    assert ask(client, [{"role": "user", "content": "Hi"}]).usage.completion_tokens > 0
