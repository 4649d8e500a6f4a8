"""Single implementations: one module replaces files, one appends rows, one reads each format."""

import ast
from collections.abc import Iterator
from pathlib import Path

import rellm_cache

PACKAGE = Path(rellm_cache.__file__).parent
RENAMES = {"os.rename", "os.renames", "os.replace", "os.link", "shutil.move"}


def calls(own: str) -> Iterator[tuple[str, ast.Call, str]]:
    """Yield (place, call, name of what is called) of every call outside the module `own`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name != own:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{name}:{node.lineno}", node, ast.unparse(node.func)


def is_rename(call: ast.Call, name: str) -> bool:
    """Whether a call renames a file: `str.replace` and `dataclasses.replace` are no renames."""
    if name in RENAMES:
        return True
    method = name.rpartition(".")[2] if isinstance(call.func, ast.Attribute) else ""
    one_path = len(call.args) == 1 and not call.keywords
    return method == "rename" or (method in ("replace", "hardlink_to") and one_path)


def appends(call: ast.Call, name: str) -> bool:
    """Whether a call opens a file to append to it."""
    modes = (*call.args, *(k.value for k in call.keywords))
    texts = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
    return name.rpartition(".")[2] == "open" and any(t in ("a", "ab", "a+", "at") for t in texts)


def test_only_atomic_files_renames() -> None:
    own = "utils/atomic_files.py"
    assert [place for place, call, name in calls(own) if is_rename(call, name)] == []


def test_only_resumable_table_appends_rows() -> None:
    own = "utils/resumable_table.py"
    assert [place for place, call, name in calls(own) if appends(call, name)] == []


# What reads a file of some format → the module that turns its errors into those for users.
READERS = {
    "json.load": "utils/json_files.py",
    "json.loads": "utils/json_files.py",
    "json.JSONDecoder": "utils/json_files.py",
    "tomllib.load": "config/toml.py",
    "tomllib.loads": "config/toml.py",
    "csv.reader": "corpus/text_files.py",
    "csv.DictReader": "corpus/text_files.py",
    "csv.writer": "utils/atomic_files.py",
    "csv.DictWriter": "utils/atomic_files.py",
    "load_file": "utils/tensor_files.py",
    "tarfile.open": "corpus/archives.py",
    "zipfile.ZipFile": "corpus/archives.py",
    "self._parquet.ParquetFile": "corpus/arrow_tables.py",
    "self._arrow.memory_map": "corpus/arrow_tables.py",
    "safe_open": "utils/model_files.py",  # only whether a file is whole
    "torch.load": "utils/tensor_files.py",
}
HDF5 = ("store/maintenance/hdf5.py", "store/maintenance/hdf5_probe.py")
# Files of the system or of the package: never those of a user.
OWN_FILES = {
    "config/recipes.py",  # shipped recipes
    "doctor/machine.py",  # /proc
    "planning/extraction.py",  # /proc
    "utils/devices.py",  # /proc and /sys
    "utils/locks.py",  # its own locks
}


def test_each_format_has_one_reader() -> None:
    for place, call, name in calls(""):
        module = place.partition(":")[0]
        assert READERS.get(name, module) == module, f"{place}: {name}"
        assert name != "h5py.File" or module in HDF5, place
        assert not (is_whole_read(call, name) and module not in OWN_FILES), f"{place}: {name}"


def is_whole_read(call: ast.Call, name: str) -> bool:
    """Whether a call reads a file that may be a pipe or a device: `read_regular` refuses those."""
    return isinstance(call.func, ast.Attribute) and name.rpartition(".")[2] in (
        "read_bytes",
        "read_text",
    )


def test_no_model_folder_can_bring_its_own_code() -> None:
    loaders = ("from_pretrained", "from_config")
    found = [(p, c) for p, c, name in calls("") if name.rpartition(".")[2] in loaders]
    assert len(found) > 8
    for place, call in found:
        own = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert own.get("trust_remote_code") == "False", place


def test_renames_and_journals_are_recognized() -> None:
    def found(text: str) -> tuple[bool, bool]:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        name = ast.unparse(call.func)
        return is_rename(call, name), appends(call, name)

    for text in ("os.replace(a, b)", "a.replace(b)", "(a / b).rename(c)", "shutil.move(a, b)"):
        assert found(text) == (True, False)
    for text in ("open(a, 'a')", "a.open('ab')", "(a / b).open(mode='a', encoding='utf-8')"):
        assert found(text) == (False, True)
    for text in ("text.replace('a', 'b')", "replace(recipe, llm=None)", "open(a)", "a.open('w')"):
        assert found(text) == (False, False)
