"""Object store client: list, download, upload and remove the files of a cache root at a URL.

It supports every protocol of fsspec, which is imported only when a URL is opened. Credentials come
from the client library's own configuration.
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
from rellm_cache.store.format import PART_NAME

EXTRAS = {"s3": "rellm[s3]", "s3a": "rellm[s3]"}


class RemoteError(UnreadableError):
    """An object store cannot be reached or used now; nothing is known about its content."""


class Remote:
    """One cache root in an object store. File names are relative to it, with slashes.

    Its methods raise `RemoteError` if a request fails. Creating it raises `ConfigError` if the URL
    is not valid, or the library for its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        _require_plain(url)
        self.url = url.rstrip("/")  # of the root
        self._files, self._root = _open(self.url, os.getpid())

    @property
    def endpoint(self) -> str:
        """URL of the service, if its protocol has several; else empty."""
        if self.url.partition("://")[0] not in EXTRAS:
            return ""
        with self._reaching("connecting to it"):
            return str(self._files.connect().meta.endpoint_url)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the sizes of all files below a folder, by name relative to it.

        Names with a component that begins with a dot are left out: they do not belong to a cache,
        and `..` would lead out of it. Raises `RemoteError` if the folder cannot be listed.
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
        """Return the names of a folder's entries; none if there is no such folder."""
        with self._reaching("listing it"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def download(self, files: Mapping[str, Path], sizes: Mapping[str, int]) -> None:
        """Download files, several at once; local folders are created.

        Raises `FileNotFoundError` if a file no longer exists.

        Args:
            files: name → local path.
            sizes: name → size in bytes, as listed.
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
        """Upload files, several at once in any order; existing ones are replaced."""
        if not files:
            return
        with self._reaching("writing to it"):
            self._files.put([str(p) for p in files.values()], [self._path(n) for n in files])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they exist; `RemoteError` if a file cannot be removed."""
        with self._reaching("removing from it"):
            for name in names:
                try:
                    self._files.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def modified(self, name: str) -> datetime | None:
        """Return when a file was written; None if it is gone or its time is unknown."""
        with self._reaching("asking it for a time"):
            try:
                time: datetime = self._files.modified(self._path(name))
            except (FileNotFoundError, NotImplementedError):  # gone, or not supported
                return None
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") if name else self._root

    @contextmanager
    def _reaching(self, doing: str, missing: type[Exception] | None = None) -> Iterator[None]:
        try:
            yield
        except (RellmError, TypeError, AttributeError):  # the last two are our own bugs
            raise
        except Exception as error:  # each client library has its own errors
            if missing is not None and isinstance(error, missing):
                raise
            raise RemoteError(f"{self.url}: {doing} failed: {_describe(error)}") from error


def files_by_part(sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Group file sizes by part: `<store>/<part>` → file name in the part → bytes."""
    parts: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        store, part, file = (*name.split("/", 2), "", "")[:3]
        if file and PART_NAME.fullmatch(part):
            parts.setdefault(f"{store}/{part}", {})[file] = size
    return parts


def _describe(error: Exception) -> str:
    """Describe an error and its fix; libraries put no keys or passwords in their messages."""
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
        return f"{text}; expected an existing bucket or folder: create it, or correct the URL"
    return f"{text}; check the network and the endpoint and run the same command again"


def _require_plain(url: str) -> None:
    protocol, mark, rest = url.partition("://")
    if not mark:
        raise ConfigError(f"{url}: expected protocol://bucket/folder, with two slashes")
    host = rest.partition("/")[0]
    if "::" in url or "?" in rest or "#" in rest:  # not printed: a query may be a signature
        raise ConfigError(
            f"{protocol}://…: a cache URL is protocol://bucket/folder, without ::, ? and #"
        )
    if "@" in host:  # not printed: the text before @ may be a password
        raise ConfigError(
            f"{protocol}://…@{host.rpartition('@')[2]}: a user or password in a URL would be "
            "stored with it; remove it and configure the client library instead"
        )
    if not rest.strip("/"):
        raise ConfigError(f"{url}: has no bucket or folder; expected {protocol}://bucket/folder")


@lru_cache
def _open(url: str, process: int) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it; cached for each process."""
    import fsspec

    protocol = url.partition("://")[0]
    if protocol not in fsspec.available_protocols():
        raise ConfigError(
            f"{url}: unknown protocol {protocol}://; expected s3://bucket/folder, or another "
            "protocol of fsspec, such as gs, abfs, sftp or file"
        )
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        files, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        fix = f"pip install '{extra}'" if extra else f"install what it needs: {error}"
        raise ConfigError(
            f"{url}: the library for {protocol}:// is not installed; {fix}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; expected {protocol}://bucket/folder") from error
    return files, path.rstrip("/")
