"""The table of renamed fields: every old name is gone, every new name exists."""

import dataclasses
import typing

import pytest

from rellm_cache.config.renamed_fields import RENAMED, renamed_fields
from rellm_cache.config.schema import EncoderConfig, Recipe


def fields_of(section: str) -> set[str]:
    if section in ("encoders.*", "emotion"):
        return {field.name for field in dataclasses.fields(EncoderConfig)}
    hint = typing.get_type_hints(Recipe)[section]
    kind = next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), hint)
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("section", RENAMED)
def test_a_new_name_is_a_field_and_an_old_one_is_not(section: str) -> None:
    fields = fields_of(section)
    assert section == "emotion" or not fields & RENAMED[section].keys()  # no table any more
    assert {new.split()[0].split(".")[-1] for new in RENAMED[section].values()} <= fields


def test_a_name_is_old_only_in_its_own_table() -> None:
    assert list(renamed_fields({"text": {"weights": 1}, "label": 2})) == []
    assert list(renamed_fields({"text": {"label": True}})) == [("text.label", "text.gold_emotion")]
