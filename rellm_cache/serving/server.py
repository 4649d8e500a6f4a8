"""Server of page and API: loads runs once, listens, and ends cleanly at Ctrl-C."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from rellm_cache.config.toml import Changes
from rellm_cache.errors import RellmError
from rellm_cache.serving.api import ChatAPI
from rellm_cache.serving.guard import Guard
from rellm_cache.serving.names import run_names
from rellm_cache.serving.served_run import LoadedParts, ServedRun
from rellm_cache.serving.settings import ServeSettings
from rellm_cache.serving.worker import Worker
from rellm_cache.utils.console import say

MOST_RUNS = 2
SECONDS_TO_END = 2  # for answers that are being written at Ctrl-C


def load_runs(runs: Sequence[Path], overrides: Changes = ()) -> list[ServedRun]:
    """Load one run, or two to compare; equal models are loaded once.

    Raises:
        RellmError: there are more than two runs, or none.
        RunError: a folder is not a finished run, or is given twice.
        ConfigError: a run cannot be served.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise RellmError(f"found {len(runs)} runs, expected one, or two to compare")
    parts = LoadedParts()
    names = run_names(runs)
    return [ServedRun(run, name, parts, overrides) for run, name in zip(runs, names, strict=True)]


def make_app(
    runs: Sequence[ServedRun], worker: Worker, settings: ServeSettings, folder: Path
) -> FastAPI:
    """The application with page and API.

    Args:
        folder: for recordings and example clips, while the server runs.
    """
    # Within an event loop: Gradio would leave one open for each lock that it makes outside.
    return asyncio.run(_make_app(runs, worker, settings, folder))


async def _make_app(
    runs: Sequence[ServedRun], worker: Worker, settings: ServeSettings, folder: Path
) -> FastAPI:
    _keep_gradio_local(folder)
    import gradio

    from rellm_cache.serving.page import STYLE, Page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api = ChatAPI(runs, worker, settings)
    app.add_route("/healthz", api.health, ["GET"])
    app.add_route("/v1/models", api.models, ["GET"])
    app.add_route("/v1/models/{name:path}", api.model, ["GET"])
    app.add_route("/v1/chat/completions", api.complete, ["POST"])
    blocks = Page(runs, worker, settings, folder).build()
    gradio.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=settings.max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        css_paths=STYLE,
        theme=gradio.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
    )
    app.add_middleware(Guard, settings=settings)
    return app


def serve(
    runs: Sequence[Path],
    settings: ServeSettings,
    overrides: Changes = (),
    on_start: Callable[[str], None] = say,
) -> None:
    """Serve runs until Ctrl-C.

    Args:
        overrides: changes of the recipes' prompts.
        on_start: is called with the page's address once the server listens.

    Raises like `load_runs`; `RellmError` if the address cannot be used.
    """
    listener = _listen(settings)  # before minutes of loading
    with listener, tempfile.TemporaryDirectory(prefix="rellm-serve-") as folder:
        loaded = load_runs(runs, overrides)
        worker = Worker(settings.waiting)
        try:
            app = make_app(loaded, worker, settings, Path(folder))
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SECONDS_TO_END,
            )
            server = _Server(config, worker, lambda: on_start(_address(settings, listener)))
            with contextlib.suppress(KeyboardInterrupt):  # raised again after a clean end
                server.run([listener])
        finally:
            worker.close()


class _Server(uvicorn.Server):
    """A server that tells when it listens, and stops the worker before it waits for answers."""

    def __init__(
        self, config: uvicorn.Config, worker: Worker, on_start: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._worker, self._on_start = worker, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and tell it."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End answers that are being written, then the connections."""
        await asyncio.to_thread(self._worker.close)
        await super().shutdown(sockets)


def _listen(settings: ServeSettings) -> socket.socket:
    """A socket on the address; `RellmError` if it is taken or not of this machine."""
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise RellmError(
            f"{settings.host}:{settings.port}: cannot listen here ({error.strerror or error}); "
            "choose another --port or --host"
        ) from error
    return listener


def _address(settings: ServeSettings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    token = f"/?token={quote(settings.token)}" if settings.token else ""
    return f"http://{host}:{listener.getsockname()[1]}{token}"


def _keep_gradio_local(folder: Path) -> None:
    """Settings of Gradio: no telemetry, no statistics, and its files in a folder of ours."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # requests
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
