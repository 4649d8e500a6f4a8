"""Fuzzing of tar, zip, parquet and Arrow files, and of locations in them."""

import zipfile
from pathlib import Path

import pytest
import soundfile
from fuzzing import damaged_bytes, fuzz, value_or_named_error
from hypothesis import strategies as st
from miniature.containers import hub_table, write_arrow, write_tar
from miniature.tones import tone

from rellm_cache.corpus.archives import open_archive, read_member
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.audio_location import audio_below, file_of, parse_location
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.datasets import read_datasets
from rellm_cache.corpus.readers.webdataset import read_webdataset


@pytest.fixture
def clip(tmp_path: Path) -> Utterance:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 8_000)
    return Utterance("a", str(tmp_path / "a.wav"), text="Hi.", emotion="sad", speaker="b")


def read_clips(corpus: Corpus) -> None:
    for utterance in corpus.utterances[:4]:
        value_or_named_error(lambda u=utterance: load_clip(u), file_of(utterance.audio))


@pytest.mark.parametrize("name", ["train.parquet", "train.arrow"])
def test_tables(clip: Utterance, tmp_path: Path, name: str) -> None:
    import pyarrow.parquet as pq

    path, table = tmp_path / name, hub_table([clip, clip, clip])
    if path.suffix == ".arrow":
        write_arrow(path, table)
    else:
        pq.write_table(table, path, row_group_size=2)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(lambda: read_clips(read_datasets(path)), path)

    fuzz(damaged_bytes(path.read_bytes()), check)


def test_tar(clip: Utterance, tmp_path: Path) -> None:
    path, sound = tmp_path / "a.tar", Path(clip.audio).read_bytes()
    write_tar(path, {"1.wav": sound, "1.json": b'{"emotion": "sad"}', "2.wav": sound})

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(lambda: read_clips(read_webdataset(path)), path, tmp_path.name)

    fuzz(damaged_bytes(path.read_bytes()), check)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(clip: Utterance, tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("1.wav", "2.wav"):
            archive.write(clip.audio, name)

    def read() -> None:
        for member in open_archive(path).members.values():
            value_or_named_error(lambda m=member: read_member(m, 1 << 20), path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(read, path)

    fuzz(damaged_bytes(path.read_bytes()), check)


def test_locations() -> None:
    parts = ["a", ".tar", ".zip", ".parquet", ":", "#", "0", "17", ":deflate", "/", "%", "\n", "é"]

    def check(words: list[str]) -> None:
        audio = "".join(words)
        location = parse_location(audio)
        if location is not None:
            assert parse_location(str(location)) == location
            assert audio.startswith(location.container)
        joined = audio_below(Path("/m"), audio)
        assert audio_below(Path("/m"), joined) == joined

    fuzz(st.lists(st.sampled_from(parts), max_size=12), check)
