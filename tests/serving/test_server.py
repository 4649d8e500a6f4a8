"""Server: who may use it, what it sends and calls, and its end."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner
from live_server import SETTINGS, LiveServer, TinyRuns, run_server

from rellm_cache.cli.serve import serve as command
from rellm_cache.errors import RellmError
from rellm_cache.serving.server import serve
from rellm_cache.serving.settings import ServeSettings

TOKEN = "open sesame"


@pytest.fixture(scope="module")
def guarded(server: LiveServer, uploads: Path) -> Iterator[LiveServer]:
    """Another server of the same loaded runs, with a token."""
    settings = replace(SETTINGS, token=TOKEN)
    yield from run_server(server.runs, settings, uploads)


def test_a_token_opens_page_and_api(guarded: LiveServer) -> None:
    for path in ("/v1/models", "/gradio_api/info", "/config", "/theme.css", "/v1/chat/completions"):
        answer = httpx.get(guarded.url + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError, match="the token is missing or wrong"):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong").models.list()
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=TOKEN)
    assert len(client.models.list().data) == 2
    page = httpx.get(guarded.url)
    assert page.status_code == 401
    assert 'type="password"' in page.text
    with httpx.Client(base_url=guarded.url) as browser:
        entered = browser.get("/", params={"token": TOKEN})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert "HttpOnly; Path=/; SameSite=strict" in entered.headers["set-cookie"]
        assert browser.get("/config").status_code == 200
    assert httpx.get(guarded.url, params={"token": "x"}).status_code == 401
    assert httpx.get(guarded.url, headers={"cookie": 'rellm-token="\\777'}).status_code == 401
    assert httpx.get(f"{guarded.url}/healthz").json() == {"status": "ok"}


def test_other_host_names_are_refused(server: LiveServer) -> None:
    port = server.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example"):
        answer = httpx.get(f"{server.url}/v1/models", headers={"host": host})
        assert answer.status_code in (400, 421), host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == 200
    page = httpx.get(server.url, headers={"host": "evil.example"})
    assert 'role="alert"' in page.text


def test_headers_keep_the_page_on_this_server(server: LiveServer) -> None:
    for path in ("/", "/v1/models", "/config"):
        headers = httpx.get(server.url + path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert "cdn" not in httpx.get(server.url + path, follow_redirects=True).text.lower()


def test_files_of_this_machine_are_not_given_away(
    server: LiveServer, tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tiny_runs.plain / "recipe.toml"
    for path in (secret, Path("/etc/passwd"), Path("pyproject.toml").absolute()):
        for route in (f"/gradio_api/file={path}", f"/file={path}", f"/static/../..{path}"):
            answer = httpx.get(server.url + route)
            assert answer.status_code >= 400, route
    fetched: list[str] = []
    name = "gradio.processing_utils.async_ssrf_protected_download"
    monkeypatch.setattr(name, lambda url, **_: fetched.append(url))
    config = httpx.get(f"{server.url}/config").json()
    (send,) = [d for d in config["dependencies"] if d["api_name"] == "_send"]
    for index, wanted in enumerate((str(secret), "/etc/passwd", "http://example.org/x.wav")):
        file = {"path": wanted, "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file, "", None], "fn_index": send["id"], "session_hash": f"s{index}"}
        joined = httpx.post(f"{server.url}/gradio_api/queue/join", json=call)
        if joined.status_code == 200:
            query = {"session_hash": f"s{index}"}
            events = httpx.get(f"{server.url}/gradio_api/queue/data", params=query, timeout=60).text
            assert '"success":false' in events.replace(" ", "")
            assert "decoded" not in events
    assert fetched == []


def test_the_address_must_be_free(server: LiveServer, tmp_path: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(RellmError, match=rf"127\.0\.0\.1:{port}: cannot listen here.*--port"):
        serve([tmp_path], ServeSettings(port=port))
    with pytest.raises(RellmError, match=r"no\.such\.host\.invalid:0: cannot listen here"):
        serve([tmp_path], ServeSettings("no.such.host.invalid", 0))


def test_the_command_checks_its_options(tmp_path: Path) -> None:
    for option in (["--max-seconds", "31"], ["--queue", "0"], ["--max-upload-mb", "0"], []):
        result = CliRunner().invoke(command, option)
        assert result.exit_code == 2, result.output
    missing = CliRunner().invoke(command, [str(tmp_path), "--host", "0.0.0.0", "--port", "0"])
    assert "Everyone who reaches 0.0.0.0 can use this server" in missing.stderr
    assert "not the folder of a finished run" in str(missing.exception)


def test_ctrl_c_ends_cleanly(tiny_runs: TinyRuns) -> None:
    """In a process of its own, which also tells each network connection that it makes."""
    code = (
        "import socket, sys\n"
        "connect = socket.socket.connect\n"
        "def told(self, address):\n"
        "    print('connects', address, file=sys.stderr, flush=True)\n"
        "    return connect(self, address)\n"
        "socket.socket.connect = told\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rellm_cache.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(tiny_runs.plain), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"Page: (http://127\.0\.0\.1:\d+)$", line)
    assert found, line + process.communicate()[1]
    client = openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": "Hello"}]
    stream = client.chat.completions.create(
        model="plain", messages=messages, stream=True, max_tokens=1900
    )
    next(iter(stream))
    threading.Timer(0.2, process.send_signal, [signal.SIGINT]).start()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.endswith("Stopped.\n")
    assert "Traceback" not in errors
    assert "connects" not in errors
