"""What identifies an encoder, a teacher or a transcriber, and what tells two apart."""

from dataclasses import replace
from typing import Any

import pytest

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import EncoderSpec, TeacherSpec, TranscriberSpec
from rellm_cache.errors import ConfigError

SPEC = EncoderSpec(kind="whisper", model="openai/whisper-tiny.en", weights_sha256="a" * 64)
TEACHER = TeacherSpec(
    model="some/Chat-1B",
    weights_sha256="a" * 64,
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
        {"layer": 2},
        {"weights_sha256": "b" * 64},
        {"version": 2},
        {"model": "other/model", "weights_sha256": ""},
    ],
)
def test_a_fingerprint_covers_what_changes_frames(change: dict[str, object]) -> None:
    assert replace(SPEC, **change).fingerprint != SPEC.fingerprint


def test_a_fingerprint_does_not_cover_where_the_model_lies() -> None:
    assert replace(SPEC, model="/models/copy").fingerprint == SPEC.fingerprint
    assert not {"device", "batch_size", "workers"} & vars(SPEC).keys()


def test_a_fingerprint_never_changes_between_versions() -> None:
    known = "9e752cb326e27850be6c9878b963e1968c10de79840f392bfc2a3a45d4002748"
    assert SPEC.fingerprint == known  # another value would orphan every cache there is


@pytest.mark.parametrize(
    ("spec", "slug"),
    [
        (SPEC, "whisper-tiny.en-last"),
        (replace(SPEC, model="/models/Whisper-Tiny", layer=2), "whisper-tiny-layer2"),
        (EncoderSpec(kind="prosody"), "prosody"),
    ],
)
def test_a_slug_is_readable(spec: EncoderSpec, slug: str) -> None:
    assert spec.slug == slug


def test_differences_name_each_field(recipe: Recipe) -> None:
    assert SPEC.differences(replace(SPEC, model="/a/copy")) == []
    assert replace(SPEC, weights_sha256="").differences(SPEC) == []
    assert SPEC.differences(replace(SPEC, layer=3, weights_sha256="b")) == [
        f"weights_sha256: wanted {'a' * 64!r}, found 'b'",
        "layer: wanted -1, found 3",
    ]
    assert recipe.encoders.speech.differences(SPEC)[0].startswith("model: wanted '/")


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "b" * 64},
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
    other = replace(TEACHER, **change)
    assert other.fingerprint != TEACHER.fingerprint
    ((name, value),) = change.items()
    assert TEACHER.differences(other)[0].startswith(f"{name}: wanted ")
    assert TEACHER.differences(other)[0].endswith(f"found {value!r}")


def test_a_teachers_fingerprint_does_not_cover_where_its_model_lies() -> None:
    assert replace(TEACHER, model="/models/copy").fingerprint == TEACHER.fingerprint


def test_a_teachers_name_and_size() -> None:
    assert TEACHER.slug == "chat-1b-teacher"
    assert TEACHER.frame_size == 65


def test_an_encoder_is_no_teacher() -> None:
    encoder = EncoderSpec(kind="prosody")
    assert TEACHER.differences(encoder) == ["kind: wanted 'teacher', found 'prosody'"]
    assert encoder.differences(TEACHER) == ["kind: wanted 'prosody', found 'teacher'"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, r'transcriber.model = "": expected a hub id'),
        ({"model": "m", "max_tokens": 0}, r"transcriber.max_tokens = 0: expected 1 or more"),
    ],
)
def test_a_transcriber_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscriberSpec(**fields)


def test_the_recipe_that_reads_whispers_words_names_a_whisper() -> None:
    recipe = load_recipe("whisper-llm")
    assert recipe.transcriber == TranscriberSpec("openai/whisper-large-v2")
    assert load_recipe("whisper-llm", ["transcriber=none"]).transcriber is None
