"""Fuzzing of a cache's metadata, columns, transcripts and the mark of a mirror."""

import json
from dataclasses import replace as replaced
from pathlib import Path

import numpy as np
from fuzzing import (
    damaged_bytes,
    damaged_file,
    damaged_json,
    damaged_lines,
    fuzz,
    replace,
    value_or_named_error,
)

from rellm_cache.cache_admin.info import list_clips
from rellm_cache.config.specs import EncoderSpec, TranscriberSpec
from rellm_cache.store.format import StoreInfo, add_checksum, list_parts
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import mark_mirror, origin_url
from rellm_cache.store.transcripts import Transcript, file_lines, read_transcripts_file
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import silent


def read_all(path: Path) -> None:
    store = FeatureStore(path)
    for key in store.ids:
        assert np.isfinite(store.frames(key)).all()
        store.vad(key)
    list_clips(path)


def test_store(tmp_path: Path) -> None:
    info = StoreInfo(EncoderSpec(kind="prosody"), 8, "test licence")
    with StoreWriter(tmp_path, info) as writer:
        for key in ("a", "ü"):
            frames = np.ones((20, 8))
            writer.add(key, np.zeros(32, np.uint8), frames, np.zeros(3, np.float32))
    store = writer.path
    [part] = list_parts(store)
    names = [p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()]
    files = {}
    for name in names:
        data = (store / name).read_bytes()
        files[name] = (
            damaged_json(json.loads(data)) if name.endswith(".json") else damaged_bytes(data)
        )
    # Values that fit their checksum, as someone may write them.
    own = {k: v for k, v in info.to_attributes()["rellm"].items() if k != "checksum"}
    crafted = damaged_json(own).map(with_checksum)

    def check(changed: tuple[str, bytes]) -> None:
        name, content = changed
        restore = replace(store, name, content)
        try:
            value_or_named_error(lambda: read_all(store), tmp_path)
            value_or_named_error(lambda: check_store(store, silent), tmp_path)
        finally:
            restore()

    assert part.name in " ".join(names)
    fuzz(damaged_file({**files, "./zarr.json": crafted}), check, cost=2)


def with_checksum(text: bytes) -> bytes:
    try:
        own = add_checksum(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return text
    return json.dumps(
        {"attributes": {"rellm": own}, "zarr_format": 3, "node_type": "group"}
    ).encode("utf-8", "surrogatepass")


def test_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "a-0123456789ab.jsonl"
    spec = replaced(TranscriberSpec("openai/whisper-tiny.en"), weights_sha256="ab" * 32)
    write_lines(path, file_lines(spec, "MIT", [Transcript("a", "00", "It – is.", cut=False)]))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(lambda: read_transcripts_file(path), path)

    fuzz(damaged_lines(rows), check)


def test_mirror(tmp_path: Path) -> None:
    mark_mirror(tmp_path, "s3://bucket/cache")
    document = json.loads((tmp_path / "remote.json").read_text())

    def check(content: bytes) -> None:
        (tmp_path / "remote.json").write_bytes(content)
        value_or_named_error(lambda: origin_url(tmp_path), tmp_path)

    fuzz(damaged_json(document), check)
