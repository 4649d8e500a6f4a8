"""Full disks: one message with the file and what is kept; a second call with room finishes.

A limit on the size of files stands for the full disk.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_ids import link_models
from processes import Ended, command, run
from training_processes import assert_same_run

from rellm_cache.annotation.responses import respond
from rellm_cache.cli import main
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import responses_path
from rellm_cache.inference.generate import generate
from rellm_cache.runs.publish import publish
from rellm_cache.store.format import list_stores
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import read_sums

Command = Callable[..., Ended]


@pytest.fixture
def rellm(tmp_path: Path, quick: Recipe) -> Command:
    """`rellm("train", …, file_bytes=4096)`: a command in the test's folder, in a child."""
    (tmp_path / "quick.toml").write_text(to_toml(quick))
    log = tmp_path.parent / f"{tmp_path.name}.log"

    def call(*words: object, file_bytes: int | None = None) -> Ended:
        return run(command([str(word) for word in words], tmp_path, file_bytes), log)

    return call


def require_refused(ended: Ended, file: str) -> None:
    """One line that names the file and the fix."""
    assert (ended.code, ended.has_traceback) == (1, False), ended.output
    (said,) = (line for line in ended.output.splitlines() if line.startswith("Error: "))
    assert file in said
    assert "run the same command again" in said
    assert "free some space" in said or "check folder and space" in said or "check the" in said
    assert "[(" not in said


def test_train(rellm: Command, cache: Path, corpus: Path, quick: Recipe, tmp_path: Path) -> None:
    words = ("train", "--recipe", "quick.toml", "--manifest", corpus, "--cache", cache, "--out")
    for size, file in ((2048, "recipe.toml"), (20_000, "best.safetensors"), (40_000, "step-0000")):
        require_refused(rellm(*words, "run", file_bytes=size), file)
        assert not [*tmp_path.glob("run/checkpoints/.partial")]
    ended = rellm(*words, "run")
    assert ended.code == 0, ended.output
    train(quick, corpus, cache, tmp_path / "other")
    assert_same_run(tmp_path / "run", tmp_path / "other")


def test_copies_and_exports(rellm: Command, cache: Path, tmp_path: Path) -> None:
    store, _ = list_stores(cache)
    for size in (500, 3000):
        require_refused(rellm("cache", "export", store, "x.h5", file_bytes=size), "x.h5")
        assert not [*tmp_path.glob("*x.h5*")]
    require_refused(rellm("cache", "copy", cache, "copied", file_bytes=3000), store.name)
    assert rellm("cache", "export", store, "x.h5").code == 0
    require_refused(rellm("cache", "import", "x.h5", "--cache", "in", file_bytes=3000), store.name)
    for words in (("import", "x.h5", "--cache", "in"), ("copy", cache, "copied")):
        ended = rellm("cache", *words)
        assert ended.code == 0, ended.output
    assert "11 utterances" in rellm("cache", "import", "x.h5", "--cache", "other").output
    assert all(rellm("cache", "verify", name).code == 0 for name in ("in", "copied"))


def test_an_export_that_fails_in_the_middle(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without reserved space every write may fail; HDF5 must not see it."""
    from rellm_cache.store.maintenance import hdf5

    monkeypatch.setattr(hdf5.os, "posix_fallocate", lambda *_: None)
    store, _ = list_stores(cache)
    for allowed in range(0, 40, 3):
        left = [allowed]

        def write(raw: object, data: memoryview, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            raw.write(data)  # type: ignore[attr-defined]

        monkeypatch.setattr(hdf5, "_write_all", write)
        with pytest.raises(SystemExit) as ended:
            main(["cache", "export", str(store), str(tmp_path / "x.h5")])
        if left[0] >= 0:
            assert ended.value.code == 0
            break
        assert ended.value.code == 1
        assert "No space left on device" in capfd.readouterr().err
        assert not [*tmp_path.glob("*x.h5*")]
    else:
        pytest.fail("no export was complete")


def test_results_of_a_run(
    rellm: Command,
    cache: Path,
    corpus: Path,
    quick: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = link_models(quick, tmp_path / "models", monkeypatch)
    options = [word for field in fields for word in ("--set", field)]
    train(quick, corpus, cache, tmp_path / "run")
    test = corpus / "test.jsonl"
    require_refused(rellm("generate", "run", test, "--out", "a.jsonl", file_bytes=600), "a.jsonl")
    require_refused(rellm("evaluate", "run", test, file_bytes=4096), "report.html")
    require_refused(
        rellm("publish", "run", "--out", "p", "--without-scores", *options, file_bytes=9000), "p:"
    )
    assert not [*tmp_path.glob(".p*")]
    assert len(generate(tmp_path / "run", test, tmp_path / "a.jsonl", cache)) == 2
    assert rellm("evaluate", "run", test).code == 0
    publish(tmp_path / "run", tmp_path / "p", fields)
    assert "adapter.safetensors" in read_sums(tmp_path / "p" / "SHA256SUMS")


def test_inputs_of_training(
    rellm: Command, cache: Path, corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    words = ("prepare", "folder", corpus / "train.jsonl", "--out", "m")
    require_refused(rellm(*words, file_bytes=600), "m/")
    assert rellm(*words).code == 0
    for file in corpus.glob("*.responses.jsonl"):
        file.unlink()
    require_refused(rellm("respond", corpus, "--recipe", "quick.toml", file_bytes=400), "responses")
    respond(corpus, quick)
    assert responses_path(corpus / "train.jsonl").is_file()
    words = ("extract", corpus, "--recipe", "quick.toml", "--cache", "new")
    require_refused(rellm(*words, file_bytes=4096), "new/tiny-whisper")
    assert rellm(*words).code == 0
    assert rellm("cache", "verify", "new").code == 0
