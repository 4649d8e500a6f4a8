"""Object store client: errors of URLs say why and what to do, and print no secrets."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.errors import ConfigError
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.remote.mirror_paths import is_url, mirrors_folder


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://bucket/cache", "unknown protocol s4://; expected s3://bucket/folder"),
        ("s3:/bucket/cache", "s3:/bucket/cache: expected protocol://bucket/folder, with two"),
        ("s3://", "s3://: has no bucket or folder"),
        ("s3:///", "has no bucket or folder; expected s3://bucket/folder"),
        ("s3://bucket/cache?version=1", r"s3://…: a cache URL is .* without ::, \? and #"),
        ("simplecache::s3://bucket/cache", "without ::"),
    ],
)
def test_invalid_urls_are_an_error(url: str, message: str) -> None:
    assert is_url(url)
    with pytest.raises(ConfigError, match=message):
        Remote(url)


@pytest.mark.parametrize("url", ["s3://me:secret@bucket/cache", "sftp://me@host/cache"])
def test_a_user_or_password_is_an_error_that_does_not_print_it(url: str) -> None:
    with pytest.raises(ConfigError, match="configure the client library instead") as refused:
        Remote(url)
    assert "me" not in str(refused.value).split()[0]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("folder", ["cache", "../cache", "/mnt/a:/b", "C:/cache", "a b://c"])
def test_folders_are_not_urls(folder: str) -> None:
    assert not is_url(folder)


def test_a_missing_bucket(s3: Any) -> None:
    with pytest.raises(
        RemoteError, match=r"s3://nowhere/cache: .*bucket does not exist.* create it"
    ):
        open_mirror("s3://nowhere/cache")


def test_mirrors_are_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELLM_COPIES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert mirrors_folder() == Path("/caches/rellm/copies")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert mirrors_folder() == Path.home() / ".cache/rellm/copies"


WITHOUT = """
import sys
{before}
from rellm_cache.cli import main
main(["cache", "info", sys.argv[1]])
"""


def run_without(before: str, url: str) -> str:
    """Output of `rellm cache info URL` in a process without something it needs."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(before=before), url], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_the_library(s3: Any) -> None:
    said = run_without("sys.modules['s3fs'] = None", s3.url)
    assert (
        f"Error: {s3.url}: the library for s3:// is not installed; pip install 'rellm[s3]'" in said
    )


def test_without_credentials(s3: Any) -> None:
    before = "import os; del os.environ['AWS_SECRET_ACCESS_KEY'], os.environ['AWS_ACCESS_KEY_ID']"
    said = run_without(f"{before}; os.environ['HOME'] = '/nowhere'", s3.url)
    assert f"{s3.url}: " in said
    assert "credentials come from the client library's own settings (for s3 AWS_ACCESS" in said


def test_without_a_server_at_the_endpoint(s3: Any) -> None:
    before = "import os; os.environ['AWS_ENDPOINT_URL'] = 'http://127.0.0.1:9'"
    said = run_without(f"{before}; os.environ['AWS_MAX_ATTEMPTS'] = '1'", s3.url)
    assert "check the network and the endpoint and run the same command again" in said


def test_no_client_library_is_loaded_for_a_folder(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from rellm_cache.cli import main\n"
        "def loaded(command, libraries):\n"
        "    try: main(command)\n"
        "    except SystemExit: print('loaded', *sorted(libraries & sys.modules.keys()))\n"
        "loaded(['--help'], {'fsspec', 'zarr'})\n"
        f"loaded(['cache', 'info', {str(tmp_path)!r}], {{'s3fs', 'aiobotocore'}})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert found == ["loaded", "loaded"]
