"""Guard in front of page and API: host name, access token, size of a request, safe headers."""

import hmac
import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rellm_cache.serving.errors import RequestError, error_response
from rellm_cache.serving.settings import MB, ServeSettings
from rellm_cache.utils.html import render_page

COOKIE = "rellm-token"
OPEN = "/healthz"  # needs no token
# The page loads nothing from other servers, and no other page may show it in a frame.
SAFE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; "
        "base-uri 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """ASGI middleware that lets through what `settings` allow."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; hand on any other."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._require_host(headers)
            self._require_size(scope, headers)
            entered = self._enter(scope, headers)
        except RequestError as error:
            entered = _refusal(scope["path"], error)
        if entered is not None:
            await entered(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFE_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)

    def _require_host(self, headers: Mapping[str, str]) -> None:
        """Refuse a page of another name that leads to this machine (DNS rebinding)."""
        if not self._settings.is_local:
            return
        host = (
            headers.get("host", "").rpartition("]")[0].lstrip("[")
            or headers.get("host", "").partition(":")[0]
        )
        if host != "localhost" and not _is_loopback(host):
            raise RequestError(
                f"host {host!r:.80}: this server is for this machine alone; open it by 127.0.0.1, "
                "or start it with --host",
                421,
                "wrong_host",
            )

    def _require_size(self, scope: Scope, headers: Mapping[str, str]) -> None:
        most = self._settings.max_upload_bytes
        length = headers.get("content-length")
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        if length is None or not length.isdecimal():
            raise RequestError("found no Content-Length; send one", 411, "no_length")
        if int(length[:20]) > most:
            raise RequestError(
                f"the request has {int(length[:20]) / MB:.1f} MB, expected at most {most / MB:g} "
                "MB; send a shorter clip, or start the server with a larger --max-upload-mb",
                413,
                "too_large",
            )

    def _enter(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """None where the token is right; a redirection that sets the cookie of the page."""
        wanted = self._settings.token
        if not wanted or scope["path"] == OPEN:
            return None
        given = headers.get("authorization", "")
        if given.lower().startswith("bearer ") and _same(given[7:].strip(), wanted):
            return None
        if _same(_cookie(headers), wanted):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if "token" in query and _same(query["token"][0], wanted):
            response = RedirectResponse(scope["path"], 303)
            response.set_cookie(COOKIE, wanted, httponly=True, samesite="strict")
            return response
        raise RequestError(
            "the token is missing or wrong; send the header `Authorization: Bearer TOKEN`, or open "
            "the page with ?token=TOKEN",
            401,
            "invalid_api_key",
        )


def _refusal(path: str, error: RequestError) -> Response:
    """An error as JSON, and of the page as a page."""
    if path != "/":
        return error_response(error)
    page = render_page("serving/refused.html.j2", message=str(error), asks=error.status == 401)
    return HTMLResponse(page, error.status, SAFE_HEADERS)


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:  # of another site on this host; it is no token of ours
        return ""
    return morsel.value if morsel is not None else ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
