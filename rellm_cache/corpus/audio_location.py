"""Location of a clip's audio: a sound file, or a part of a tar, zip, parquet or Arrow file.

    clips/001.wav                                 a sound file
    clips.zip:120:48044                           bytes of a zip archive: offset and length
    shards/a.tar:1536:48044#clips/001.wav         of a tar archive, with the member's name
    clips.zip:120:20031:deflate#clips/001.wav     a compressed member of a zip archive
    clips.zip#clips/001.wav                       a member by name; `prepare` looks up its bytes
    data/train-00000-of-00002.parquet:17#audio    a row, counted from 0, and a column

In names behind offsets and rows, `%`, `#` and `:` are written as `%25`, `%23` and `%3A`. A sound
file whose own path has one of these forms is a sound file: what exists is looked at first.
"""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

_BYTES = re.compile(
    r"(?s)(?P<container>.+\.(?i:zip|tar)):(?P<offset>\d+):(?P<length>\d+)"
    r"(?P<deflate>:deflate)?(?:#(?P<name>[^#:]*))?"
)
_ROW = re.compile(r"(?s)(?P<container>.+\.(?i:parquet|arrow)):(?P<row>\d{1,18})#(?P<column>[^#:]+)")
_NAMED = re.compile(r"(?s)(?P<container>.+?\.(?i:zip|tar))#(?P<name>.+)")


@dataclass(frozen=True)
class ArchiveMember:
    """Bytes of a tar or zip archive.

    Attributes:
        container: path of the archive.
        offset: of the first byte.
        length: in bytes, within the archive.
        deflated: whether they are compressed, by zlib's raw deflate.
        name: of the member, for people; "" if it is not known.
    """

    container: str
    offset: int
    length: int
    deflated: bool = False
    name: str = ""

    def __str__(self) -> str:
        name = f"#{_quoted(self.name)}" if self.name else ""
        return f"{self.container}:{self.offset}:{self.length}{':deflate' * self.deflated}{name}"


@dataclass(frozen=True)
class NamedMember:
    """A member of a tar or zip archive, by name alone."""

    container: str
    name: str

    def __str__(self) -> str:
        return f"{self.container}#{self.name}"


@dataclass(frozen=True)
class TableCell:
    """The value of a column in a row, counted from 0, of a parquet or Arrow file."""

    container: str
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.container}:{self.row}#{_quoted(self.column)}"


Location = ArchiveMember | NamedMember | TableCell


def parse_location(audio: str) -> Location | None:
    """The part of a container that an utterance's `audio` names; None for a sound file.

    Example:
        >>> from rellm_cache.corpus.audio_location import parse_location
        >>> parse_location("shards/a.tar:1536:48044#001.wav").offset
        1536
        >>> parse_location("clips/001.wav") is None
        True
    """
    found = _parse(audio)
    return None if found is None or os.path.isfile(audio) else found


def _parse(audio: str) -> Location | None:
    """As `parse_location`, by the form alone."""
    if ":" not in audio and "#" not in audio:
        return None
    if match := _BYTES.fullmatch(audio):
        return ArchiveMember(
            match["container"],
            int(match["offset"]),
            int(match["length"]),
            bool(match["deflate"]),
            unquote(match["name"] or ""),
        )
    if match := _ROW.fullmatch(audio):
        return TableCell(match["container"], int(match["row"]), unquote(match["column"]))
    if match := _NAMED.fullmatch(audio):
        return NamedMember(match["container"], match["name"])
    return None


def file_of(audio: str) -> str:
    """The path of the file that has the audio: itself, or its container."""
    location = parse_location(audio)
    return audio if location is None else location.container


def audio_below(folder: Path, audio: str) -> str:
    """`str(folder / audio)`; of a location, the container's path is joined, the rest kept."""
    if location := _parse(audio):
        return _below(folder, location.container) + audio[len(location.container) :]
    return _below(folder, audio)


def default_id(audio: str, folder: Path) -> str:
    """An id from `audio`: the path, or the member's name, without suffix; else all of it."""
    location = _parse(audio)
    if location is None:
        keep_suffix = not Path(audio).name  # "." has no name
        return f"{folder.name}/{audio if keep_suffix else Path(audio).with_suffix('')}"
    name = "" if isinstance(location, TableCell) else location.name
    if not Path(name).name:
        return f"{folder.name}/{audio}"
    return f"{folder.name}/{Path(name).with_suffix('')}"


def _below(folder: Path, path: str) -> str:
    """`str(folder / path)`, without a new `Path` for each clip."""
    name = path.rpartition("/")[2]
    if name in ("", "."):
        return str(folder / path)
    if path[0] == "/" and "//" not in path and "/./" not in path:
        return path
    return os.path.join(_join(folder, path[: -len(name)]), name)


@lru_cache(maxsize=4096)
def _join(folder: Path, below: str) -> str:
    joined = str(folder / below)
    return "" if joined == "." else joined


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("#", "%23").replace(":", "%3A")
