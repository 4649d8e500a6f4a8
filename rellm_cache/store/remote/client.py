"""A cache root in an object store. In: its URL. Out: its files listed, fetched, sent, removed.

Any protocol that fsspec knows; who may do what is the client library's own configuration. fsspec
is imported when a URL is opened, not before.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.store.errors import UnreadableError

EXTRAS = {"s3": "rellm[s3]", "s3a": "rellm[s3]"}


class RemoteError(UnreadableError):
    """An object store, or the way to it, fails now. It says nothing about what is stored there."""


class Remote:
    """One cache root in an object store. Names are relative to it, with slashes.

    Args:
        url: as a user gives it.

    Attributes:
        url: without a slash at its end.

    Raises:
        ConfigError: the URL cannot be used, or the library for its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        _require_plain(url)
        self.url = url.rstrip("/")
        self._files, self._root = _open(self.url, os.getpid())

    @property
    def endpoint(self) -> str:
        """Of the service that answers, where a protocol has many; else empty.

        Raises:
            RemoteError: the client library cannot make a connection with its own settings.
        """
        if self.url.partition("://")[0] not in EXTRAS:
            return ""
        with self._reaching("connecting to it"):
            return str(self._files.connect().meta.endpoint_url)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of every file below a folder, by its name relative to that folder.

        Names with a piece that begins with a dot are none of a cache's, and could lead out of it.

        Raises:
            RemoteError: it cannot be listed.
        """
        top = self._path(folder)
        with self._reaching("listing it"):
            self._files.invalidate_cache()
            found = self._files.find(top, detail=True)
        sizes = {
            name.removeprefix(f"{top}/"): int(entry["size"])
            for name, entry in found.items()
            if name.startswith(f"{top}/")
        }
        return {name: size for name, size in sizes.items() if "/." not in f"/{name}"}

    def children(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder; empty where there is no such folder.

        Raises:
            RemoteError: it cannot be listed.
        """
        with self._reaching("listing it"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def download(self, files: Mapping[str, Path], sizes: Mapping[str, int]) -> None:
        """Fetch files, several at once; folders are made.

        Args:
            files: name → where to.
            sizes: of each, as it was listed.

        Raises:
            FileNotFoundError: one is not there any more.
            RemoteError: one cannot be read whole, or the disk is full.
        """
        if not files:
            return
        with self._reaching("reading from it", missing=FileNotFoundError):
            for folder in {path.parent for path in files.values()}:
                folder.mkdir(parents=True, exist_ok=True)
            self._files.get([self._path(n) for n in files], [str(p) for p in files.values()])
            for name, path in files.items():
                if (found := path.stat().st_size) != sizes[name]:
                    raise OSError(f"{name}: got {found} bytes, expected {sizes[name]}")

    def upload(self, files: Mapping[str, Path]) -> None:
        """Send files, several at once, in no order; those that are there are replaced.

        Raises:
            RemoteError: one cannot be written.
        """
        if not files:
            return
        with self._reaching("writing to it"):
            self._files.put([str(p) for p in files.values()], [self._path(n) for n in files])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error.

        Raises:
            RemoteError: one cannot be removed.
        """
        with self._reaching("removing from it"):
            for name in names:
                try:
                    self._files.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def modified(self, name: str) -> datetime | None:
        """When a file was written; None where it is gone, or the object store does not tell.

        Raises:
            RemoteError: it cannot be asked.
        """
        with self._reaching("asking it for a time"):
            try:
                time: datetime = self._files.modified(self._path(name))
            except (FileNotFoundError, NotImplementedError):  # gone, or a store that does not tell
                return None
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") if name else self._root

    @contextmanager
    def _reaching(self, doing: str, missing: type[Exception] | None = None) -> Iterator[None]:
        try:
            yield
        except (RellmError, TypeError, AttributeError):  # the last two are mistakes of ours
            raise
        except Exception as error:  # each client library has errors of its own
            if missing is not None and isinstance(error, missing):
                raise
            raise RemoteError(f"{self.url}: {doing} failed: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    """What happened and what to do; libraries name neither keys nor passwords."""
    text = f"{type(error).__name__}: {error}".strip(": ")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{text}; free some space on this machine and run the same command again"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return (
            f"{text}; credentials come from the client library's own settings (for s3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or ~/.aws): check them, and "
            "what they may do there"
        )
    if isinstance(error, FileNotFoundError):
        return f"{text}; expected the bucket or folder to be there: make it, or mend the URL"
    return f"{text}; check the network and the endpoint and run the same command again"


def _require_plain(url: str) -> None:
    protocol, mark, rest = url.partition("://")
    if not mark:
        raise ConfigError(f"{url}: expected protocol://bucket/folder, with two slashes")
    host = rest.partition("/")[0]
    if "::" in url or "?" in rest or "#" in rest:  # not repeated: a query may be a signature
        raise ConfigError(
            f"{protocol}://…: a cache is a plain protocol://place/folder, without ::, ? and #"
        )
    if "@" in host:  # not repeated: what stands before the @ may be a password
        raise ConfigError(
            f"{protocol}://…@{host.rpartition('@')[2]}: a user or password in a URL would be "
            "written down with it; leave it out and set it as the client library documents"
        )
    if not rest.strip("/"):
        raise ConfigError(f"{url}: names no bucket or folder; expected {protocol}://bucket/folder")


@lru_cache
def _open(url: str, process: int) -> tuple[Any, str]:
    """The file system of a URL and the path in it; none crosses a fork, hence `process`."""
    import fsspec

    protocol = url.partition("://")[0]
    if protocol not in fsspec.available_protocols():
        raise ConfigError(
            f"{url}: no object store is reached by {protocol}://; expected s3://bucket/folder, or "
            "another protocol that fsspec knows, as gs, abfs, sftp or file"
        )
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        files, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        need = EXTRAS.get(protocol)
        way = f"pip install '{need}'" if need else f"install what it asks for: {error}"
        raise ConfigError(
            f"{url}: the library for {protocol}:// is not installed; {way}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; expected {protocol}://bucket/folder") from error
    return files, path.rstrip("/")
