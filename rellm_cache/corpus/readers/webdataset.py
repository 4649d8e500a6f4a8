"""WebDataset shards: tar files in which files of one base name are a sample.

    shards/train-000.tar        001.flac  001.json  001.txt  002.flac  002.json …

The sample's key is the name up to the first dot of its last part; what follows is the extension.
`.json` holds columns by name; `.txt`, `.cls` and other texts are columns named by extension. Sound
stays in the tar.
"""

import glob
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rellm_cache.corpus.archives import Archive, open_archive, read_member
from rellm_cache.corpus.audio_location import ArchiveMember
from rellm_cache.corpus.field_validation import plain_name
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.readers.table import COLUMN, Row, TableOptions, corpus_of_rows
from rellm_cache.corpus.splits import split_of_path
from rellm_cache.corpus.text_files import Problems
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.utils.console import counted
from rellm_cache.utils.json_files import parse_object
from rellm_cache.utils.regular_files import file_exists, folder_exists

SOUNDS = ("flac", "wav", "mp3", "ogg", "opus", "oga", "aif", "aiff", "aifc", "au", "caf", "w64",
          "sph", "m4a", "mp4", "webm")  # fmt: skip
TEXTS = ("txt", "text", "transcript", "cls", "cls2", "id", "emotion", "speaker", "split")
LARGEST_TEXT = 16 << 20  # bytes of a sample's .json or text
MOST_SHARDS = 1_000_000
# Columns that stand for others where these are missing.
STANDS_FOR = {"txt": "text", "transcript": "text", "cls": "emotion"}
_SAMPLE = re.compile(r"(?s)(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NO_AUDIO = "samples without sound, left out"
_OTHER_FILES = "members that belong to no sample, not read"


@dataclass(frozen=True)
class WebdatasetOptions(TableOptions):
    """Options of the corpus `webdataset`: columns; `audio_column` is the sound's extension."""


@register_corpus("webdataset", options=WebdatasetOptions)
def read_webdataset(shards: Path, options: WebdatasetOptions = WebdatasetOptions()) -> Corpus:
    """Read WebDataset shards; utterances point into them.

    Args:
        shards: a tar file, a folder of them, or a pattern, as `shards-{000..009}.tar` or `*.tar`.

    Raises:
        ManifestError: a shard is missing, truncated, damaged or compressed, a sample has two files
            of one extension or several sounds, its JSON cannot be read, or as `read_table`.
    """
    files = find_shards(str(shards))
    folder = files[0].resolve().parent
    problems, rows = Problems(), list[Row]()
    for file in files:
        rows += _read_shard(file, folder.name, options, problems)
    if not rows:
        raise ManifestError(f"{shards}: found no sample with sound in {counted(len(files), 'tar')}")
    notes = _name_columns(rows, options)
    corpus = corpus_of_rows(rows, shards, folder.name, folder, options)
    for kind, lines in problems.lines.items():
        corpus.problems.lines.setdefault(kind, []).extend(lines)
    return Corpus(**{**vars(corpus), "notes": [*notes, *corpus.notes]})


def find_shards(pattern: str) -> list[Path]:
    """The tar files of a folder or pattern; `{000..009}` and `{a,b}` are every value in turn.

    Raises:
        ManifestError: there is none, or one that braces name is missing.

    Example:
        >>> from rellm_cache.corpus.readers.webdataset import expand_braces
        >>> list(expand_braces("s-{08..10}.tar"))
        ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    if folder_exists(pattern):
        found = sorted(p for p in Path(pattern).rglob("*.tar") if p.is_file())
    else:
        found = []
        for one in expand_braces(pattern):
            named = [Path(one)] if file_exists(one) else map(Path, sorted(glob.glob(one)))
            if not (named := list(named)):
                raise ManifestError(
                    f"{one}: no such file; expected a tar file, a folder of them, or a pattern as "
                    "'shards-{000..009}.tar' (in quotation marks)"
                )
            found += named
    if not found:
        raise ManifestError(f"{pattern}: found no *.tar; expected shards of WebDataset")
    if wrong := [file for file in found if file.suffix.lower() != ".tar"]:
        raise ManifestError(
            f"{wrong[0]}: expected a name that ends with .tar; decompress it, or rename it"
        )
    if twice := [file for file, count in Counter(found).items() if count > 1]:
        raise ManifestError(f"{pattern}: names {twice[0]} twice; name each shard once")
    return found


def expand_braces(pattern: str) -> Iterator[str]:
    """Every text of a pattern with braces, in order, as a shell writes them."""
    parts = _BRACES.split(pattern)  # text, inside of braces, text, …
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    size = 1
    for values in choices:
        size *= len(values)
        if size > MOST_SHARDS:
            raise ManifestError(f"{pattern}: names more than {MOST_SHARDS} files; correct it")
    return ("".join(values) for values in product(*choices))


def _choices(inside: str) -> Sequence[str]:
    if (numbers := _RANGE.fullmatch(inside)) is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(numbers[1]), int(numbers[2])
    padded = numbers[1][0] == "0" or numbers[2][0] == "0"
    width = max(map(len, numbers.groups())) if padded else 0
    step = 1 if first <= last else -1
    if abs(last - first) >= MOST_SHARDS:
        raise ManifestError(f"{{{inside}}}: names more than {MOST_SHARDS} files; correct it")
    return [f"{n:0{width}d}" for n in range(first, last + step, step)]


def _read_shard(
    file: Path, name: str, options: WebdatasetOptions, problems: Problems
) -> Iterator[Row]:
    """Rows of the samples of one tar file that have sound."""
    try:
        archive = open_archive(Path.cwd() / file)
    except (AudioError, OSError) as error:
        raise ManifestError(str(error)) from error
    if not archive.ended:
        problems.add("shards without an end mark, which may be cut", str(file))
    split = split_of_path(file.name)
    for key, members in _samples(archive, problems).items():
        where = f"{file}: {key}"
        audio = _sound_of(where, members, options)
        if audio is None:
            problems.add(_NO_AUDIO, f"{where}: found .{', .'.join(members)}")
            continue
        row: dict[str, Any] = {}
        for extension, member in members.items():
            if extension == "json":
                row |= parse_object(_text(where, member), f"{where}.json", ManifestError,
                                    "correct the sample", strict=True)  # fmt: skip
            elif extension != audio and extension in {*TEXTS, *_columns(options)}:
                row[extension] = _text(where, member).strip()
        row[options.audio_column] = str(members[audio])
        if not any(plain_name(column) == plain_name(options.id_column) for column in row):
            row[options.id_column] = f"{name}/{key.removeprefix('./')}"
        if split and not any(plain_name(c) == plain_name(options.split_column) for c in row):
            row[options.split_column] = split
        yield where, row


def _samples(archive: Archive, problems: Problems) -> dict[str, dict[str, ArchiveMember]]:
    """Key → extension in lower case → member."""
    for name, reason in archive.refused.items():
        raise ManifestError(f"{archive.path}#{name}: {reason}")
    samples: dict[str, dict[str, ArchiveMember]] = {}
    for name, member in archive.members.items():
        match = _SAMPLE.fullmatch(name)
        if match is None:
            problems.add(_OTHER_FILES, f"{archive.path}: {name}")
            continue
        files = samples.setdefault(match["key"], {})
        extension = match["extension"].lower()
        if (other := files.setdefault(extension, member)) is not member:
            raise ManifestError(
                f"{archive.path}: members {other.name} and {name} are the same file of one sample; "
                "rename one"
            )
    return samples


def _sound_of(
    where: str, members: dict[str, ArchiveMember], options: WebdatasetOptions
) -> str | None:
    """Extension of a sample's sound: the one that the option names, else the only known one."""
    wanted = options.audio_column.lower().removeprefix(".")
    if wanted in members:
        return wanted
    if wanted != WebdatasetOptions.audio_column:
        return None
    found = [ext for ext in members if ext.rpartition(".")[2] in SOUNDS]
    if len(found) > 1:
        raise ManifestError(
            f"{where}: found several sounds, .{', .'.join(found)}; choose one with --audio-column"
        )
    return found[0] if found else None


def _text(where: str, member: ArchiveMember) -> str:
    try:
        return read_member(member, LARGEST_TEXT).decode("utf-8-sig")
    except (AudioError, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: {member.name} cannot be read as UTF-8: {error}") from error


def _columns(options: WebdatasetOptions) -> set[str]:
    """Names that options give to columns."""
    return {str(value) for name, value in vars(options).items() if name.endswith(COLUMN)}


def _name_columns(rows: Sequence[Row], options: WebdatasetOptions) -> list[str]:
    """Take .txt for the text and .cls for the emotion where no option and no column says it."""
    found = {name for _, row in rows for name in row}
    notes = []
    for extension, field in STANDS_FOR.items():
        default = getattr(WebdatasetOptions, f"{field}{COLUMN}")
        wanted = getattr(options, f"{field}{COLUMN}")
        if extension not in found or wanted != default or default in found:
            continue
        for _, row in rows:
            if extension in row:
                row[default] = row.pop(extension)
        found.add(default)
        notes.append(f"The {field} is the samples' .{extension}")
    return notes
