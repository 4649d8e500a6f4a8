"""Single implementations: one module replaces files, and one appends rows."""

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
