"""Endpoint: replies of a server in OpenAI's form, its failures, and rows that continue."""

import math
from pathlib import Path
from typing import Any

import pytest
from openai_server import Server

from rellm_cache.annotation.endpoint import (
    Endpoint,
    ask_endpoint,
    connect,
    connect_if,
    first_tokens,
)
from rellm_cache.annotation.responses import reply_fingerprint, respond
from rellm_cache.annotation.text_replies import Writing
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines, responses_path, write_lines
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.llm.loading import load_chat
from rellm_cache.llm.prompts import ChatFormat

WRITING = Writing("Be kind.", 20)


@pytest.fixture
def chat(recipe: Recipe) -> ChatFormat:
    return load_chat(recipe.require_llm())


def ask(server: Server, chat: ChatFormat, *prompts: str, at_once: int = 4, **options: Any) -> Any:
    endpoint = Endpoint(server.url, "tiny", **options)
    return {r.prompt: r for r in ask_endpoint(endpoint, chat, prompts, WRITING, at_once)}


def test_replies_are_the_servers(server: Server, chat: ChatFormat) -> None:
    found = ask(server, chat, "cats", "long dogs", "cats")
    assert found.keys() == {"cats", "long dogs"}
    assert found["cats"].reply.text == "About cats"
    assert not found["cats"].reply.early_stop
    assert found["long dogs"].reply.early_stop
    request = chat.text_prompt("Be kind.", "cats")
    assert found["cats"].length == len(request) + len(chat.ids("About cats"))
    body = next(b for b in server.bodies if b["messages"][-1]["content"] == "cats")
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (body["max_tokens"], body["temperature"], body["model"]) == (20, 0.0, "tiny")


def test_requests_run_side_by_side_up_to_the_limit(server: Server, chat: ChatFormat) -> None:
    assert len(ask(server, chat, *map(str, range(12)), at_once=3)) == 12
    assert 1 < server.most <= 3


@pytest.mark.parametrize("fault", ["500", "cut", "empty", "html", "slow"])
def test_a_failure_of_a_moment_is_repeated(server: Server, chat: ChatFormat, fault: str) -> None:
    found = ask(server, chat, fault, "cats", seconds=0.5, retries=2)
    assert found[fault].reply.text == f"About {fault}"
    assert server.asked == {fault: 2, "cats": 1}


def test_a_failure_that_stays_is_an_error_after_the_other_replies(
    server: Server, chat: ChatFormat
) -> None:
    endpoint = Endpoint(server.url, "tiny", retries=2)
    replies = ask_endpoint(endpoint, chat, ("500 always", "a", "b", "c"), WRITING, 4)
    assert sorted(next(replies).prompt for _ in range(3)) == ["a", "b", "c"]
    with pytest.raises(RellmError, match=r"no memory.*run the command again"):
        next(replies)
    assert server.asked["500 always"] == 3


def test_a_refused_request_is_not_repeated(server: Server, chat: ChatFormat) -> None:
    with pytest.raises(RellmError, match=r"refused the request that begins 'refuse me'.*too long"):
        ask(server, chat, "refuse me")
    assert server.asked == {"refuse me": 1}


def test_the_model_is_the_servers_only_one_or_is_named(server: Server) -> None:
    assert connect(server.url) == Endpoint(server.url, "tiny", "of/tiny")
    server.models = ["large", "tiny"]
    with pytest.raises(ConfigError, match=r"models large, tiny; expected which one"):
        connect(server.url)
    with pytest.raises(ConfigError, match=r"expected 'huge'"):
        connect(server.url, "huge")
    assert connect(server.url, "large").identity == {"model": "large", "root": "of/large"}


def test_a_server_without_a_list_needs_the_models_name(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models = []
    with pytest.raises(ConfigError, match=r"name the model with --endpoint-model"):
        connect(server.url, retries=0)
    assert connect(server.url, "tiny", retries=0).identity == {"model": "tiny"}
    assert "does not list its models" in capsys.readouterr().err


def likely(server: Server, *prompts: str, retries: int = 1) -> dict[str, Any]:
    endpoint = Endpoint(server.url, "tiny", retries=retries, seconds=0.5)
    return dict(first_tokens(endpoint, prompts, "Judge.", 4))


def test_the_likeliest_first_tokens_are_the_servers(server: Server) -> None:
    server.first_tokens = {"4": 0.5, " 4": 0.25, "No": 0.125}
    found = likely(server, "cats", "late")
    expected = [("4", math.log(0.5)), (" 4", math.log(0.25)), ("No", math.log(0.125))]
    assert found == {"cats": expected, "late": expected}  # the second answer begins with a blank
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Judge."}
    asked = {name: body[name] for name in ("temperature", "logprobs", "top_logprobs", "max_tokens")}
    assert asked == {"temperature": 0.0, "logprobs": True, "top_logprobs": 20, "max_tokens": 3}
    assert likely(server, "mute") == {"mute": []}


@pytest.mark.parametrize("fault", ["500", "cut", "empty", "html", "slow"])
def test_first_tokens_are_asked_for_again_after_a_failure(server: Server, fault: str) -> None:
    assert len(likely(server, fault)[fault]) == 2
    assert server.asked == {fault: 2}


@pytest.mark.parametrize("fault", ["blind", "half blind"])
def test_a_server_without_likelihoods_is_named_and_not_asked_again(
    server: Server, fault: str
) -> None:
    with pytest.raises(ConfigError, match=r"/v1: the answers have no likelihoods of tokens.*vLLM"):
        likely(server, fault)
    assert server.asked == {fault: 1}


@pytest.mark.parametrize(
    ("token", "logprob"),
    [("4", math.nan), ("4", 900.0), ("4", None), ("4", "x"), (None, -1.0), (4, -1.0)],
)
def test_likelihoods_that_are_none_are_never_scores(
    server: Server, token: Any, logprob: Any
) -> None:
    one = {"token": "4", "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": logprob}]}
    server.logprobs = {"content": [one]}
    with pytest.raises(RellmError, match=r"/v1: no complete answer after 2 requests \("):
        likely(server, "cats", retries=1)


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": 5},
        {"content": [{"token": None, "logprob": -1.0, "top_logprobs": [{"token": "4"}]}]},
        {"content": [{"token": "4", "logprob": -1.0, "top_logprobs": 5}]},
        {"content": [{"token": "4", "logprob": -1.0, "top_logprobs": "abc"}]},
        {"content": [5]},
        "abc",
    ],
)
def test_likelihoods_in_another_form_are_named(server: Server, logprobs: Any) -> None:
    server.logprobs = logprobs
    with pytest.raises(RellmError, match=r"/v1: (no complete answer|the answers have no likel)"):
        likely(server, "cats", retries=0)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000", "file:///etc/passwd", "http://", "", "http://127.0.0.1:abc/v1",
        "http://[::1/v1", "http://[bad]/v1", "http://127.0.0.1:9/v1\n", "http://a\0b/v1",
        "http://127.0.0.1:0/v1", "http://xn--☃.invalid/v1",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a URL, as http://"):
        connect(url)


def test_a_password_in_the_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as found:
        connect("http://user:secret@127.0.0.1:9/v1", retries=0, seconds=5)
    assert "http://127.0.0.1:9/v1" in str(found.value)
    assert "secret" not in str(found.value)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9/v1: no list of models"):
        connect("http://127.0.0.1:9/v1", retries=0, seconds=5)


def test_respond_writes_the_replies_of_a_server_and_continues(
    server: Server, recipe: Recipe, tmp_path: Path
) -> None:
    manifest = tmp_path / "train.jsonl"
    rows = [
        {"id": str(i), "audio": f"{i}.wav", "text": text, "emotion": "sad"}
        for i, text in enumerate(["I lost it.", "500 always", "We won."])
    ]
    write_lines(manifest, rows)
    endpoint = Endpoint(server.url, "tiny", retries=0)
    with pytest.raises(RellmError, match="run the command again"):
        respond(manifest, recipe, endpoint=endpoint)
    assert not responses_path(manifest).exists()
    write_lines(manifest, [row for row in rows if "500" not in row["text"]])
    asked = server.asked.total()
    (report,) = respond(manifest, recipe, endpoint=endpoint)
    assert (report.written, report.generated) == (2, 0)
    assert server.asked.total() == asked  # both replies were kept
    written = [row for _, row in read_lines(report.path)]
    assert all(row["response"].startswith("About ") for row in written)
    own = reply_fingerprint(recipe.require_llm(), recipe.prompts)
    other = reply_fingerprint(recipe.require_llm(), recipe.prompts, endpoint)
    assert {row["fingerprint"] for row in written} == {other} != {own}


@pytest.mark.parametrize("likelihoods", [False, True])
def test_a_server_that_cannot_answer_is_an_error_at_once(
    server: Server, likelihoods: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = connect_if(server.url, "tiny", likelihoods)
    assert endpoint == connect(server.url)
    assert server.asked == {"Hello": 1}
    assert server.bodies[0].get("top_logprobs") == (20 if likelihoods else None)
    server.page = "<html>Welcome to the proxy</html>"
    message = r"--endpoint http://127.*: a trial request failed; correct the URL.*'tiny': .*no choi"
    with pytest.raises(ConfigError, match=message):
        connect_if(server.url, "tiny", likelihoods)
    assert "does not list its models" in capsys.readouterr().err


def test_a_judge_needs_likelihoods_from_the_start(server: Server) -> None:
    server.logprobs = {}
    assert connect_if(server.url, None) is not None
    with pytest.raises(ConfigError, match="the answers have no likelihoods of tokens"):
        connect_if(server.url, None, likelihoods=True)
