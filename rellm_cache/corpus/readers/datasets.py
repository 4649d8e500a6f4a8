"""Data sets of the hub's library `datasets`: parquet files, `save_to_disk` folders, hub ids.

    data/train-00000-of-00002.parquet                    a folder or repository with parquet files
    dataset_dict.json, train/state.json, train/*.arrow   `DatasetDict.save_to_disk`
    state.json, data-00000-of-00001.arrow                `Dataset.save_to_disk`

Sound stays where it is: an utterance's audio is a row of a file. Only data are read, never a
loading script. `configs` in the README's header say which files belong to which split, else names
of files and folders do.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from yaml import YAMLError

from rellm_cache.corpus.arrow_tables import SUFFIXES, ArrowTable, AudioCell
from rellm_cache.corpus.audio_location import TableCell
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.readers.table import Row, TableOptions, corpus_of_rows, match_columns
from rellm_cache.corpus.splits import split_of_path
from rellm_cache.errors import AudioError, ConfigError, ManifestError
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.model_files import HUB_ID, hub_errors
from rellm_cache.utils.near_names import did_you_mean

README = "README.md"
STATE, SPLIT_LIST = "state.json", "dataset_dict.json"  # of `save_to_disk`
TABLES = ("metadata.csv", "metadata.jsonl")  # of an audio folder
_FIX = "save the data set again"
_NAME = "\0name"  # of the sound file in a row, beside its columns


@dataclass(frozen=True)
class DatasetsOptions(TableOptions):
    """Options of the corpus `datasets`: columns, and which files.

    Attributes:
        config: name of a configuration, as the README or the first folders name it.
        revision: of a hub id: a branch, tag or commit.
        audio_folder: what paths of sound files are relative to, and must be in; default: the data
            set's folder.
    """

    config: str = ""
    revision: str = ""
    audio_folder: str = ""


@dataclass(frozen=True)
class _Files:
    """The data files of a data set, each with its split, or "" for none."""

    folder: Path
    name: str  # of the data set
    splits: Mapping[str, str]  # path below the folder → split


@register_corpus("datasets", options=DatasetsOptions)
def read_datasets(root: Path, options: DatasetsOptions = DatasetsOptions()) -> Corpus:
    """Read a data set with an audio column; utterances point into its files.

    Args:
        root: folder of a data set, one of its files, or a hub id, as owner/name.

    Raises:
        ConfigError: pyarrow is not installed, or the hub cannot give the data set.
        ManifestError: there are no data files, no such configuration or column, a file is damaged,
            a path leads out of the folder, or as `read_table`.
    """
    files = _find_files(root, options)
    base = Path.cwd() / options.audio_folder if options.audio_folder else files.folder
    rows: list[Row] = []
    unread: dict[str, None] = {}
    try:
        for name, split in files.splits.items():
            table = ArrowTable(files.folder / name)
            columns = match_columns(table.columns, table.path, options)
            unread |= dict.fromkeys(c for c in table.columns if c not in columns.values())
            for number, row in enumerate(_rows(table, columns, base)):
                if split and "split" not in columns:
                    row[options.split_column] = split
                if "id" not in columns:
                    row[options.id_column] = f"{files.name}/{Path(name).with_suffix('')}/{number}"
                rows.append((f"{table.path}:{number}", row))
    except AudioError as error:
        raise ManifestError(str(error)) from error
    _use_names(rows, files.name, options.id_column)
    kept = [(where, {k: v for k, v in row.items() if k != _NAME}) for where, row in rows]
    return corpus_of_rows(kept, root, files.name, base, options, list(unread))


def _rows(table: ArrowTable, columns: Mapping[str, str], base: Path) -> Iterator[dict[str, Any]]:
    """Cells of the columns in use; the audio is a location or a path, its name is beside it."""
    kept = [column for field, column in columns.items() if field != "audio"]
    audio, has_id = columns["audio"], "id" in columns
    cells = zip(table.read_rows(kept), table.read_audio(audio), strict=True)
    for number, (row, cell) in enumerate(cells):
        row[audio] = str(TableCell(str(table.path), number, audio))
        if cell.path:
            row[audio] = _path_inside(base, cell, f"{table.path}:{number}")
        if not has_id:
            row[_NAME] = cell.name or cell.path
        yield row


def _path_inside(base: Path, cell: AudioCell, where: str) -> str:
    """The path of a sound file; `ManifestError` if it is a URL or leads out of the folder."""
    fix = "name the folder that the files are in with --audio-folder, or put the sound in the table"
    path = os.path.normpath(base / cell.path)
    if "://" in cell.path or not path.startswith(os.path.join(os.path.normpath(base), "")):
        raise ManifestError(f"{where}: found audio {cell.path!r}, expected a path in {base}; {fix}")
    return path


def _use_names(rows: Sequence[Row], name: str, id_column: str) -> None:
    """Make ids of the files' names where every row has one of its own; else they have numbers."""
    names = [PurePosixPath(row.get(_NAME, "")) for _, row in rows]
    plain = [str((p if not p.is_absolute() else PurePosixPath(p.name)).with_suffix(""))
             for p in names if p.name]  # fmt: skip
    if len(set(plain)) == len(rows):
        for (_, row), own in zip(rows, plain, strict=True):
            row[id_column] = f"{name}/{own}"


def _find_files(root: Path, options: DatasetsOptions) -> _Files:
    if root.is_dir():
        return _in_folder(Path.cwd() / root, root.resolve().name, options)
    if root.suffix.lower() in SUFFIXES and root.exists():
        folder = Path.cwd() / root.parent
        return _Files(folder, folder.resolve().name, {root.name: split_of_path(root.name)})
    if root.exists() or not HUB_ID.fullmatch(str(root)):
        raise ManifestError(
            f"{root}: expected a folder, a parquet or Arrow file, or a hub id as owner/name"
            f"{did_you_mean(root)}"
        )
    folder = _download(str(root), options)
    return _in_folder(folder, root.name, options)


def _in_folder(folder: Path, name: str, options: DatasetsOptions) -> _Files:
    """The data files of a folder."""
    if (folder / SPLIT_LIST).exists():
        splits = read_object(folder / SPLIT_LIST, ManifestError, _FIX).get("splits")
        if not isinstance(splits, list) or not all(_is_name(split) for split in splits):
            raise ManifestError(
                f"{folder / SPLIT_LIST}: found splits {splits!r:.80}, expected names of folders; "
                f"{_FIX}"
            )
        files = {f"{s}/{f}": split_of_path(s) for s in splits for f in _saved_files(folder / s)}
        return _Files(folder, name, files)
    if (folder / STATE).exists():
        state = read_object(folder / STATE, ManifestError, _FIX)
        split = split_of_path(str(state.get("_split") or folder.name))
        return _Files(folder, name, dict.fromkeys(_saved_files(folder), split))
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return _Files(folder, name, _choose(folder, names, options.config))


def _saved_files(folder: Path) -> list[str]:
    """Names of the Arrow files of a data set that `save_to_disk` wrote."""
    listed = read_object(folder / STATE, ManifestError, _FIX).get("_data_files")
    names = [f.get("filename") for f in listed if isinstance(f, dict)] if listed else []
    if not isinstance(listed, list) or not all(map(_is_name, names)) or not names:
        raise ManifestError(
            f"{folder / STATE}: found _data_files {listed!r:.80}, expected names of files; {_FIX}"
        )
    return list(map(str, names))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", "..") and PurePosixPath(name).name == name


def _choose(folder: Path, names: Sequence[str], config: str) -> dict[str, str]:
    """Data file → split, of a configuration.

    Args:
        names: paths of all files below the folder.

    Raises:
        ManifestError: there are no data files, or no such configuration, or several to choose from.
    """
    data = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not data:
        raise ManifestError(f"{folder}: found no parquet or Arrow file; {_instead(folder, names)}")
    configs = _configs(folder / README) if README in names else {}
    if configs:
        chosen = configs[_config_name(folder, configs, config)]
        found = {
            name: split_of_path(split)
            for split, pattern in _patterns(chosen)
            for name in data
            if fnmatch(name, pattern.replace("**/", "*"))
        }
        if not found:
            raise ManifestError(
                f"{folder / README}: the patterns of configuration "
                f"{chosen.get('config_name')!r} match no parquet or Arrow file; download them all"
            )
        return found
    folders = dict.fromkeys(name.partition("/")[0] for name in data if name.count("/") > 1)
    if config:
        _config_name(folder, folders, config)
        data = [name for name in data if name.startswith(f"{config}/")]
    elif len(folders) > 1 and all(n.count("/") > 1 for n in data) and _no_splits(folders):
        _config_name(folder, folders, "")
    return {name: split_of_path(name) for name in data}


def _no_splits(folders: Mapping[str, object]) -> bool:
    return not any(map(split_of_path, folders))


def _config_name(folder: Path, known: Mapping[str, Any], config: str) -> str:
    """The configuration that is asked for, else the only one or the default one."""
    default = [n for n, entry in known.items() if isinstance(entry, dict) and entry.get("default")]
    chosen = (
        config or (default or [n for n in known if n == "default" or len(known) == 1] or [""])[0]
    )
    if chosen not in known:
        found = f"no configuration {config!r}" if config else f"{len(known)} configurations"
        raise ManifestError(
            f"{folder}: found {found}; name one with --config: {', '.join(known) or 'none'}"
        )
    return chosen


def _configs(readme: Path) -> dict[str, dict[str, Any]]:
    """Configurations with data files in a README's header, by name."""
    from huggingface_hub.repocard import metadata_load

    try:
        entries = (metadata_load(readme) or {}).get("configs") or []
        return {
            str(e["config_name"]): e
            for e in entries
            if e.get("data_files") is not None or e.get("data_dir")
        }
    except (OSError, ValueError, YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{readme}: its header cannot be read ({type(error).__name__}); expected `configs` as "
            "the hub's data sets have it; correct or remove it"
        ) from error


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Split and pattern of each entry of a configuration's data files."""
    below = f"{str(config['data_dir']).strip('/')}/" if config.get("data_dir") else ""
    entries = config.get("data_files")
    if entries is None:
        yield "", f"{below}*"
        return
    if isinstance(entries, dict):
        entries = [{"split": split, "path": path} for split, path in entries.items()]
    for entry in [entries] if isinstance(entries, str) else entries:
        paths = entry.get("path") if isinstance(entry, dict) else entry
        split = str(entry.get("split", "")) if isinstance(entry, dict) else ""
        for path in [paths] if isinstance(paths, str) else paths or []:
            yield split, below + str(path).removeprefix("./")


def _instead(folder: Path, names: Sequence[str]) -> str:
    """What to do with a data set that has no data files."""
    if tables := [name for name in TABLES if name in names]:
        return (
            f"`rellm prepare folder {folder / tables[0]} --audio-column file_name` reads its table"
        )
    if scripts := [name for name in names if "/" not in name and name.endswith(".py")]:
        return (
            f"its loading script {scripts[0]} is not run; take the hub's own parquet files with "
            "--revision refs/convert/parquet, or save the data set with `to_parquet`"
        )
    if any(name.lower().endswith(".tar") for name in names):
        return f"`rellm prepare webdataset {folder}` reads tar files"
    return "save the data set with `to_parquet` or `save_to_disk`"


def _download(name: str, options: DatasetsOptions) -> Path:
    """The folder of a data set of the hub: of its cache, after the files needed were downloaded."""
    from huggingface_hub import HfApi, snapshot_download

    revision = options.revision or None
    kept: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    try:
        names = HfApi().list_repo_files(name, **kept)
        plain = [n for n in names if "/" not in n and n.endswith((".md", ".json", *TABLES))]
        folder = Path(snapshot_download(name, allow_patterns=plain or [README], **kept))
        wanted = [*_choose(folder, names, options.config)]
        return Path(snapshot_download(name, allow_patterns=[*plain, *wanted], **kept))
    except hub_errors() as error:
        try:
            return Path(snapshot_download(name, local_files_only=True, **kept))
        except hub_errors():
            raise ConfigError(
                f"data set {name!r}: no such folder, none in the hub's cache, and the hub could "
                f"not give it ({type(error).__name__}); check the name, or download it to a folder"
            ) from error
