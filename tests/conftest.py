"""Fixtures: tiny models saved by their own libraries, and a corpus of tones.

Models are random with a fixed seed and made once per session. A test that changes one copies it.
"""

import os

# No test may reach for a model hub; transformers reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
from models import (
    save_emotion_model,
    save_epitome,
    save_llm,
    save_text_encoder,
    save_whisper,
    save_whisper_writer,
)
from tones import tiny_recipe, tone, write_corpus

from rellm_cache.config.schema import AdapterConfig, EncoderConfig, LossesConfig, Recipe

pytest_plugins = ["pipeline_fixtures"]

STARTED_IN = Path.cwd()
RAVDESS = Path(__file__).parents[1] / "../shared/data/ravdess"


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background job starts with it ignored."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.fixture(autouse=True)
def nothing_is_left_here() -> Iterator[None]:
    """A test writes into `tmp_path`, never into the folder in which tests are started."""
    before = set(STARTED_IN.iterdir())
    yield
    left = [path for path in set(STARTED_IN.iterdir()) - before if not path.name.startswith(".")]
    assert not left, f"a test, this one or one that ran beside it, wrote {left}"


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper: two encoder layers of 16 values."""
    return save_whisper(tmp_path_factory.mktemp("models") / "tiny-whisper")


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random English-only Whisper that writes letters."""
    return save_whisper_writer(tmp_path_factory.mktemp("models") / "tiny-writer.en", ())


@pytest.fixture(scope="session")
def languages_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper that writes letters and knows two languages."""
    return save_whisper_writer(tmp_path_factory.mktemp("models") / "tiny-writer", ("en", "de"))


@pytest.fixture(scope="session")
def emotion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random wav2vec2 with an emotion head, in audeering's layout."""
    return save_emotion_model(tmp_path_factory.mktemp("models") / "tiny-emotion")


@pytest.fixture(scope="session")
def text_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of three layers of 16 values that knows a few words."""
    return save_text_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def epitome_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EPITOME's three tables in miniature."""
    return save_epitome(tmp_path_factory.mktemp("epitome"))


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer, ChatML's special tokens and a chat template."""
    return save_llm(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.fixture
def recipe(whisper_folder: Path, emotion_folder: Path, llm_folder: Path) -> Recipe:
    """Both streams, a small adapter and the tiny chat model, unquantised."""
    return tiny_recipe(whisper_folder, emotion_folder, llm_folder)


@pytest.fixture
def speech_recipe(whisper_folder: Path) -> Recipe:
    """One stream and no LLM: enough to fill a cache."""
    return Recipe(
        name="speech",
        encoders={"speech": EncoderConfig(kind="whisper", model=str(whisper_folder))},
        adapter=AdapterConfig(preset="lite", width=16, bottleneck=16, output_size=32),
        losses=LossesConfig(response_lm=0.0),
    )


MakeClip = Callable[..., Path]


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """`make_clip("a.wav", seconds=1.5)` writes a tone into the test's folder and returns its path;
    `samples=` writes those instead, `subtype=` chooses the sample format.
    """

    def make(
        name: str,
        seconds: float = 1.5,
        hertz: float = 220.0,
        rate: int = 16_000,
        channels: int = 1,
        samples: np.ndarray | None = None,
        subtype: str | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = tone(seconds, hertz, rate, channels) if samples is None else samples
        soundfile.write(path, data, rate, subtype=subtype)
        return path

    return make


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest folder of eleven tones in three splits; the audio lies beside it."""
    return write_corpus(tmp_path)


@pytest.fixture(scope="session")
def ravdess() -> Path:
    """The real corpus, where it has been placed beside the checkout."""
    if not RAVDESS.is_dir():
        pytest.skip("RAVDESS is not at ../shared/data/ravdess (it is not ours to ship)")
    return RAVDESS


class Requests(logging.Handler):
    """What an S3 server was asked: `GET /bucket/key`, one a line of its log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().partition('"')[2].partition(" HTTP/")[0])

    def of_frames(self, method: str = "GET") -> list[str]:
        """Names of the shard files that were fetched, each as often as it was."""
        own = [line for line in self.lines if f"{method} /" in line and "/frames/c/" in line]
        return [line.partition("/cache/")[2] for line in own]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Requests]:
    """An S3 server on loopback, which the client library finds by its environment."""
    from moto.server import ThreadedMotoServer  # a second that few tests need

    requests = Requests()
    log = logging.getLogger("werkzeug")
    log.addHandler(requests)
    log.propagate = False
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment:
        for key, value in settings.items():
            environment.setenv(key, value)
        yield requests
    server.stop()
    log.removeHandler(requests)


@dataclass(frozen=True)
class S3:
    """A bucket of a test's own.

    Attributes:
        url: of a cache root in it.
        copies: where copies of it lie.
        requests: what the server was asked since the test began.
    """

    url: str
    copies: Path
    requests: Requests
    files: Any = field(repr=False)

    def path(self, name: str) -> str:
        """Of a file below the root, as `files` knows it."""
        return f"{self.url}/{name}".removeprefix("s3://")

    def names(self) -> set[str]:
        """Every file below the root."""
        self.files.invalidate_cache()
        top = self.path("")
        return {name.removeprefix(top) for name in self.files.find(top)}

    def flip(self, name: str, byte: int = 0) -> None:
        """Change one bit of a file."""
        data = bytearray(self.files.cat_file(self.path(name)))
        data[byte] ^= 1
        self.files.pipe_file(self.path(name), bytes(data))

    def forget_copies(self) -> None:
        """Remove all copies, as on another machine."""
        shutil.rmtree(self.copies)


@pytest.fixture
def s3(s3_server: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> S3:
    """An empty bucket and an empty folder for copies."""
    monkeypatch.setenv("RELLM_COPIES", str(tmp_path / "copies"))
    files = fsspec.filesystem("s3")
    bucket = f"bucket-{abs(hash(request.node.nodeid)):x}"
    files.mkdir(bucket)
    s3_server.lines.clear()
    return S3(f"s3://{bucket}/cache", tmp_path / "copies", s3_server, files)
