"""Errors of requests to the server, with their HTTP status and the form of OpenAI's API."""

import traceback
from typing import Any

from starlette.responses import JSONResponse, Response

from rellm_cache.errors import AudioError, RellmError
from rellm_cache.model.conversation import ConversationLengthError
from rellm_cache.utils.console import say


class RequestError(RellmError):
    """A request that cannot be answered as it is.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        code: short name of the error.
        param: field of the request, if it is about one.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str = "invalid_request",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class QueueFullError(RequestError):
    """As many requests wait as may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"the server is busy: {waiting} requests wait already; try again in some seconds",
            429,
            "queue_full",
        )


class StoppedError(RequestError):
    """The server ends."""

    def __init__(self) -> None:
        super().__init__("the server stops; start it again with `rellm serve`", 503, "stopped")


def request_error(error: Exception) -> RequestError:
    """The error of a request for any error of its work; an unknown one is printed, too."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, AudioError):
        return RequestError(str(error), 400, "invalid_audio", "messages")
    if isinstance(error, ConversationLengthError):
        return RequestError(str(error), 400, "context_length_exceeded", "messages")
    if isinstance(error, RellmError):
        return RequestError(str(error))
    say("".join(traceback.format_exception(error)))
    return RequestError(
        f"an error in the server ({type(error).__name__}); its console shows it", 500, "internal"
    )


def error_body(error: RequestError) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    }


def error_response(error: RequestError) -> Response:
    """An error as a response; one that passes says when to try again."""
    headers = {"Retry-After": "5"} if error.status in (429, 503) else {}
    return JSONResponse(error_body(error), error.status, headers)
