"""HTTP API in the form of OpenAI's chat completions, with speech as `input_audio` parts.

    POST /v1/chat/completions   an answer, at once or token by token
    GET  /v1/models             the runs that are served
    GET  /healthz               whether the server is up

A response has emotion, dimensions and transcript of the last message in its field `rellm`.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rellm_cache.llm.decoding import Continuation, Sampling
from rellm_cache.model.conversation import Reply, Turn
from rellm_cache.serving.chat_request import ChatRequest, read_chat_request
from rellm_cache.serving.errors import (
    QueueFullError,
    RequestError,
    StoppedError,
    error_body,
    error_response,
    request_error,
)
from rellm_cache.serving.served_run import Heard, ServedRun, read_speech
from rellm_cache.serving.settings import SECONDS_FOR_BODY, ServeSettings
from rellm_cache.serving.worker import Emit, Job, Worker
from rellm_cache.utils.json_files import parse_object

_END = object()


@dataclass(frozen=True)
class Partial:
    """The answer so far."""

    text: str


class ChatAPI:
    """Handlers of the API's paths for served runs."""

    def __init__(self, runs: Sequence[ServedRun], worker: Worker, settings: ServeSettings) -> None:
        self._runs = {run.name: run for run in runs}
        self._worker, self._settings = worker, settings
        self._started = int(time.time())
        self._receiving = 0  # requests whose body has not arrived

    async def health(self, _: Request) -> Response:
        """Whether the server is up."""
        return JSONResponse({"status": "ok"})

    async def models(self, _: Request) -> Response:
        """All served runs."""
        data = [self._model(run) for run in self._runs.values()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One served run."""
        try:
            return JSONResponse(self._model(self._run(request.path_params["name"])))
        except RequestError as error:
            return error_response(error)

    async def complete(self, request: Request) -> Response:
        """An answer to a conversation."""
        try:
            asked = await self._read(request)
            job = self._worker.start(lambda emit: self._answer(asked, emit))
            return await self._respond(request, asked, job)
        except Exception as error:  # of any kind: the client gets its reason and a status
            return error_response(request_error(error))

    async def _respond(self, request: Request, asked: ChatRequest, job: Job) -> Response:
        """The response to a request; errors of its work are raised before a stream begins."""
        completion = _Completion(asked)
        try:
            completion.heard = await _next(job)
            first = await _next(job)
            if asked.stream:
                events = _stream(completion, first, job)
                return StreamingResponse(events, media_type="text/event-stream")
            event = first
            while not isinstance(event, Reply):
                if await request.is_disconnected():
                    raise ClientDisconnect
                event = await _next(job)
        except BaseException:
            job.close()
            raise
        return JSONResponse(completion.whole(event))

    async def _read(self, request: Request) -> ChatRequest:
        """The checked request; as many bodies are received at a time as jobs may wait."""
        if self._worker.is_full or self._receiving > self._settings.waiting:
            raise QueueFullError(self._settings.waiting)
        self._receiving += 1
        try:
            async with asyncio.timeout(SECONDS_FOR_BODY):
                body = await request.body()  # `Guard` bounds it
        except TimeoutError:
            raise RequestError(
                f"the request did not arrive within {SECONDS_FOR_BODY:g} s", 408, "timeout"
            ) from None
        finally:
            self._receiving -= 1
        fix = "send the body of OpenAI's chat completions"
        content = parse_object(body, "the request", RequestError, fix)
        asked = read_chat_request(content)
        self._run(asked.model)
        return asked

    def _run(self, name: str) -> ServedRun:
        if name not in self._runs:
            raise RequestError(
                f"model: no run {name!r:.80} is served; there is {', '.join(self._runs)}",
                404,
                "model_not_found",
                "model",
            )
        return self._runs[name]

    def _answer(self, asked: ChatRequest, emit: Emit) -> None:
        """Hear and answer, in the worker's thread; emits `Heard` or None, `Partial`s, `Reply`."""
        run = self._run(asked.model)
        turns: list[Turn] = []
        heard: Heard | None = None
        for message in asked.turns:
            heard = None
            if message.audio is not None:
                clip = read_speech(message.audio, message.place, self._settings.limits)
                heard = run.hear(clip)
                turns.append(run.spoken_turn(heard, message.text))
            else:
                turns.append(Turn((message.text,)))
        emit(heard)
        if not run.answers and heard is not None:
            emit(Reply(Continuation("", early_stop=False), 0))
            return
        sampling = Sampling(asked.temperature, [asked.seed]) if asked.temperature else None
        emit(
            run.reply(
                turns,
                asked.system,
                asked.max_tokens,
                sampling,
                lambda texts: emit(Partial(texts[0])),
            )
        )

    def _model(self, run: ServedRun) -> dict[str, Any]:
        recipe = run.recipe
        return {
            "id": run.name,
            "object": "model",
            "created": self._started,
            "owned_by": "rellm",
            "rellm": {
                "recipe": recipe.name,
                "emotions": list(recipe.heads.emotions) if recipe.text is None else [],
                "answers": run.answers,
                "transcribes": run.transcribes,
                "llm": recipe.llm.model if recipe.llm is not None and run.answers else None,
            },
        }


class _Completion:
    """One response in OpenAI's form."""

    def __init__(self, asked: ChatRequest) -> None:
        self.heard: Heard | None = None
        self._asked = asked
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The response in one piece."""
        found = reply.continuation
        message = {"role": "assistant", "content": found.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _reason(reply), "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(reply),
            "rellm": self._found(reply),
        }

    def chunk(self, delta: Mapping[str, str], reason: str | None = None) -> dict[str, Any]:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def first(self) -> dict[str, Any]:
        """The event before the answer: what was heard."""
        return {
            **self.chunk({"role": "assistant", "content": ""}),
            "rellm": heard_fields(self.heard),
        }

    def last(self, reply: Reply, rest: str) -> list[dict[str, Any]]:
        """The events after the answer; `rest` is its text that was not sent yet."""
        chunks = [self.chunk({"content": rest})] if rest else []
        end = {**self.chunk({}, _reason(reply)), "rellm": self._found(reply)}
        chunks.append(end)
        if self._asked.include_usage:
            usage = {"choices": [], "usage": _usage(reply)}
            chunks.append({**self._head("chat.completion.chunk"), **usage})
        return chunks

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
        }

    def _found(self, reply: Reply) -> dict[str, Any]:
        return {**heard_fields(self.heard), "token_ids": list(reply.continuation.ids)}


def heard_fields(heard: Heard | None) -> dict[str, Any]:
    """What was heard in the last message; every value is None if it had no speech."""
    found = heard.recognition if heard is not None else None
    return {
        "emotion": found.emotion if found else None,
        "probabilities": found.probabilities if found else None,
        "dimensions": found.dimensions if found else None,
        "transcript": heard.transcript if heard else None,
        "seconds": heard.seconds if heard else None,
    }


async def _stream(completion: _Completion, event: Any, job: Job) -> AsyncIterator[str]:
    """Server-sent events of an answer; an error after the first token is an event, too."""
    sent = ""
    try:
        yield _event(completion.first())
        while not isinstance(event, Reply):
            if event.text.startswith(sent) and event.text != sent:
                yield _event(completion.chunk({"content": event.text[len(sent) :]}))
                sent = event.text
            event = await _next(job)
        text = event.continuation.text
        for chunk in completion.last(event, text[len(sent) :] if text.startswith(sent) else ""):
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent, so the stream tells it
        yield _event(error_body(request_error(error)))
    finally:
        job.close()


async def _next(job: Job) -> Any:
    """The next event of a job; `StoppedError` if it has none, as of a server that stops."""
    event = await run_in_threadpool(next, job, _END)
    if event is _END:
        raise StoppedError
    return event


def _reason(reply: Reply) -> str:
    return "length" if reply.continuation.early_stop else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    made = len(reply.continuation.ids)
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": reply.prompt_tokens + made,
    }


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
