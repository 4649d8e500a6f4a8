"""Fingerprints of answers: what decides an answer, and rows of versions that knew less."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.annotation.responses import respond
from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.corpus.manifest import responses_path
from rellm_cache.llm.loading import text_files_digest, with_text_files
from rellm_cache.utils.resumable_table import ResultTable, same_inputs


def edit_json(**values: object) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        path.write_text(json.dumps(known | values), "utf-8")

    return edit


@pytest.fixture
def llm(llm_folder: Path, tmp_path: Path) -> LLMConfig:
    return LLMConfig(model=str(shutil.copytree(llm_folder, tmp_path / "chat")), quantization="none")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("tokenizer.json", lambda path: path.write_text(path.read_text() + " ")),
        ("tokenizer_config.json", edit_json(pad_token="a")),
        ("chat_template.jinja", lambda path: path.write_text(path.read_text() + " ")),
        ("special_tokens_map.json", edit_json(eos_token="<|endoftext|>")),
        ("generation_config.json", edit_json(eos_token_id=7)),
    ],
)
def test_files_that_decide_an_answer(
    name: str, edit: Callable[[Path], object], llm: LLMConfig
) -> None:
    before = text_files_digest(llm)
    edit(Path(llm.model) / name)
    assert len(before) == len(text_files_digest(llm)) == 64
    assert text_files_digest(llm) != before


def test_other_files_do_not(llm: LLMConfig, tmp_path: Path) -> None:
    before = text_files_digest(llm)
    edit_json(num_beams=4, temperature=0.2)(Path(llm.model) / "generation_config.json")
    (Path(llm.model) / "README.md").write_text("A model.")
    assert text_files_digest(llm) == before
    moved = replace(llm, model=str(shutil.move(llm.model, tmp_path / "moved")))
    assert text_files_digest(moved) == before
    assert with_text_files("f", replace(llm, model="nobody/nothing-here")) == "f"


def test_rows_of_versions_that_knew_less(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": name, "fingerprint": name} for name in ("f", "f+1", "f+2", "g+1")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [*ResultTable(path, "f+1")] == ["f", "f+1"]
    assert [*ResultTable(path, "f")] == ["f", "f+1", "f+2"]
    with ResultTable(path, "f+1") as table:
        table.add("f", answer=1)  # a field that is added to an old row keeps the others
    assert ResultTable(path, "f+1")["f"] == {"id": "f", "fingerprint": "f", "answer": 1}
    assert same_inputs(None, "f")


def test_answers_are_made_again(
    corpus: Path, cache: Path, quick: Recipe, llm: LLMConfig, tmp_path: Path
) -> None:
    recipe = replace(quick, llm=llm)
    test = corpus / "test.jsonl"
    respond(test, recipe, overwrite=True)
    first = responses_path(test).read_text()
    (same,) = respond(test, recipe)
    template = Path(llm.model) / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "friend"))
    (other,) = respond(test, recipe)
    assert (same.generated, other.generated) == (0, 2)
    # Rows of an older version stay, as nobody knows their template.
    old = re.sub(r"\+[0-9a-f]{8}\"", '"', first)
    responses_path(test).write_text(old)
    (kept,) = respond(test, recipe)
    assert kept.generated == 0
    assert responses_path(test).read_text() == old
