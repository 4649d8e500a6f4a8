"""rellm cache with a URL: commands accept it and print it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.writer import StoreWriter

Run = Callable[..., tuple[int, str, str]]


def test_a_cache_at_a_url(
    run: Run, corpus: Path, speech_recipe: Recipe, s3: Any, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(speech_recipe))
    code, out, _ = run("extract", corpus, "--recipe", recipe, "--cache", s3.url)
    assert code == 0
    store = out.partition(": ")[0]
    assert store.startswith(f"{s3.url}/tiny-whisper-")
    s3.forget_copies()
    code, out, _ = run("cache", "info", s3.url, "--json")
    info = json.loads(out)
    assert (code, info["root"], info["stores"][0]["clips"]) == (0, s3.url, 11)
    assert s3.requests.of_frames() == []
    code, out, _ = run("cache", "verify", s3.url)
    assert (code, out) == (0, f"{store}: intact, 11 utterances in 1 part\n")
    assert len(run("cache", "ls", store)[1].splitlines()) == 11
    code, out, _ = run("cache", "export", store, tmp_path / "out.h5")
    assert (code, out) == (0, f"{tmp_path}/out.h5: 11 utterances\n")
    other = s3.url.replace("/cache", "/other")
    code, out, _ = run("cache", "import", tmp_path / "out.h5", "--cache", other)
    assert (code, "1 part added (11 utterances)" in out) == (0, True)
    code, out, _ = run("cache", "quantize", store)
    assert code == 0
    assert out.startswith(f"{s3.url}/tiny-whisper-last-int8-")
    code, out, _ = run("cache", "copy", s3.url, tmp_path / "folder")
    assert (code, out.count("1 part copied (11 utterances)")) == (0, 2)
    (shard,) = [n for n in s3.names() if "/frames/c/" in n and "int8" not in n]
    s3.flip(shard)
    code, out, _ = run("cache", "verify", s3.url)
    assert code == 1
    assert f"Repair it with `rellm cache repair {s3.url}`." in out
    code, out, err = run("cache", "ls", f"{s3.url}/nothing")
    assert code == 1
    listing = f"`rellm cache info {s3.url}` lists the stores"
    assert err == f"Error: {s3.url}/nothing: no such store; {listing}\n"


def test_repair_reports_incomplete_uploads(run: Run, s3: Any, tmp_path: Path) -> None:
    info = StoreInfo(EncoderSpec(kind="prosody"), 8, "test licence")
    with StoreWriter(open_mirror(s3.url), info) as writer:
        writer.add("a", np.zeros(32, np.uint8), np.ones((50, 8), np.float16))
    left = f"{writer.path.name}/part-000002-0123abcd"
    s3.files.pipe_file(s3.path(f"{left}/offsets/zarr.json"), b"{}")
    code, out, _ = run("cache", "repair", s3.url)
    assert code == 0
    assert (
        f"{s3.url}/{left}: incomplete upload (1 file, 0.0 MB, 0.0 hours old): the upload may" in out
    )
    code, out, _ = run("cache", "repair", s3.url, "--unfinished-hours", "0", "--json")
    (part,) = json.loads(out)["unfinished"]
    assert (code, part["place"], part["removed"]) == (0, f"{s3.url}/{left}", True)
    assert (
        run("cache", "repair", s3.url)[1] == f"{s3.url}/{writer.path.name}: intact, nothing to do\n"
    )


def test_a_mistyped_url_creates_no_folder(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("extract", corpus, "--recipe", "heads", "--cache", "s3:/bucket/cache")
    assert code == 1
    assert "expected protocol://bucket/folder, with two slashes" in err
    assert not (tmp_path / "s3:").exists()
