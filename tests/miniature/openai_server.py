"""A server in OpenAI's form for tests: models, chat completions, likelihoods of tokens, faults."""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def token(text: str, likelihood: float) -> dict[str, Any]:
    """A token as the server describes it."""
    return {"token": text, "bytes": list(text.encode()), "logprob": math.log(likelihood)}


class Server(ThreadingHTTPServer):
    """A server with faults: a prompt may say what happens to its first request, or to all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = ["tiny"]
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.first_tokens = {"4": 0.75, "2": 0.25}  # of an answer → their likelihoods
        self.logprobs: Any = None  # sent in place of the right ones
        self.page = ""  # HTML that is sent in place of every answer
        self.faults = True
        self.busy = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers requests of OpenAI's chat-completions form."""

    server: Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        if not self.server.models:
            self.send(404, {"detail": "Not Found"})
            return
        models = [
            {"id": name, "object": "model", "root": f"of/{name}"} for name in self.server.models
        ]
        self.send(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.bodies.append(body)
        self.server.asked[prompt] += 1
        self.server.busy += 1
        self.server.most = max(self.server.most, self.server.busy)
        time.sleep(0.02)
        self.server.busy -= 1
        first = self.server.asked[prompt] == 1
        text = "" if "mute" in prompt else f" About {prompt} "
        message: dict[str, Any] = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs") and "blind" not in prompt.split():
            choice["logprobs"] = {"content": self.tokens(prompt)}
        elif body.get("logprobs") and "half" in prompt:
            choice["logprobs"] = {"content": [{**token("4", 1.0), "top_logprobs": []}]}
        if self.server.logprobs is not None:
            choice["logprobs"] = self.server.logprobs
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny"}
        if not self.server.faults:
            self.send(200, {**whole, "choices": [choice]})
        elif "refuse" in prompt:
            self.send(400, {"error": {"message": "too long for me"}})
        elif "500" in prompt and (first or "always" in prompt):
            self.send(500, {"error": {"message": "no memory"}})
        elif "cut" in prompt and first:
            self.send(200, {**whole, "choices": [choice]}, cut=20)
        elif "empty" in prompt and first:
            self.send(200, {**whole, "choices": []})
        elif "html" in prompt and first:
            self.send(200, "<html>busy</html>")
        elif "slow" in prompt and first:
            time.sleep(1.0)
        else:
            choice["finish_reason"] = "length" if "long" in prompt else "stop"
            self.send(200, {**whole, "choices": [choice]})

    def tokens(self, prompt: str) -> list[dict[str, Any]]:
        """Tokens of an answer with the likeliest ones at their places."""
        if "mute" in prompt:
            return []
        likeliest = [token(text, share) for text, share in self.server.first_tokens.items()]
        blank = {**token(" ", 1.0), "top_logprobs": [token(" ", 1.0)]}
        written = {**token("4", 0.5), "top_logprobs": likeliest}
        return [blank, written] if "late" in prompt else [written]

    def send(self, status: int, content: Any, cut: int = 0) -> None:
        """Send JSON, or the beginning of it, or the server's page."""
        status, content = (200, self.server.page) if self.server.page else (status, content)
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if self.server.page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        self.close_connection = True


@contextmanager
def running_server() -> Iterator[Server]:
    """The server, which answers until the end of the block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
