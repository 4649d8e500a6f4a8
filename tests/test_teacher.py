"""What identifies a teacher, and what tells two apart."""

from dataclasses import replace

import pytest

from rellm_cache.config import EncoderSpec
from rellm_cache.teacher import TeacherSpec

SPEC = TeacherSpec(
    model="some/Chat-1B",
    weights="a" * 64,
    quantization="nf4",
    template="chatml",
    system="Be kind.",
    prompt="Continue: {transcript}",
    top_k=32,
    temperature=2.0,
)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "b" * 64},
        {"quantization": "none"},
        {"template": "model"},
        {"system": "Be brief."},
        {"prompt": "Go on: {transcript}"},
        {"top_k": 8},
        {"temperature": 1.0},
        {"version": 2},
    ],
)
def test_a_fingerprint_covers_what_changes_rows(change: dict[str, object]) -> None:
    other = replace(SPEC, **change)
    assert other.fingerprint != SPEC.fingerprint
    ((name, value),) = change.items()
    assert SPEC.differences(other)[0].startswith(f"{name}: wanted ")
    assert SPEC.differences(other)[0].endswith(f"found {value!r}")


def test_a_fingerprint_does_not_cover_where_the_model_lies() -> None:
    assert replace(SPEC, model="/models/copy").fingerprint == SPEC.fingerprint


def test_its_name_and_size() -> None:
    assert SPEC.slug == "chat-1b-teacher"
    assert SPEC.frame_size == 65


def test_an_encoder_is_no_teacher() -> None:
    encoder = EncoderSpec(kind="prosody")
    assert SPEC.differences(encoder) == ["kind: wanted 'teacher', found 'prosody'"]
    assert encoder.differences(SPEC) == ["kind: wanted 'prosody', found 'teacher'"]
