"""Specs: the settings that identify an encoder, a teacher or a transcriber."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import CachedSpec, EncoderSpec, TeacherSpec, TranscriberSpec
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.format import StoreInfo, read_info, store_path
from rellm_cache.store.matching import find_store

OLD_CACHE = Path(__file__).parents[1] / "fixtures" / "edition1" / "cache"

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


PINNED = {"model": "openai/whisper-tiny.en", "weights_sha256": "a" * 64}
FIRST_EDITION = [
    (SPEC, "9e752cb326e27850be6c9878b963e1968c10de79840f392bfc2a3a45d4002748"),
    (
        EncoderSpec(kind="whisper", model="openai/whisper-tiny.en", layer=2),
        "b501ecb2f5d15bb031914855555205421f416d12a525a8261a31f597089bc09c",
    ),
    (
        EncoderSpec(kind="whisper", layer=2, window="clip", dtype="int8", **PINNED),
        "16f87bc9aebf749e7822f0b0de62f42c17cdd2c9b9448de12eeef1cd21ecb124",
    ),
    (
        EncoderSpec(kind="wav2vec2-emotion", model="audeering/x", weights_sha256="b" * 64),
        "93482dca2b14ec7fdbed8b981d86c1755d3bc6faa3ab99c001e92d5eb1179f17",
    ),
    (
        EncoderSpec(kind="prosody"),
        "1d0f958b85718b14bce5a4eaeb6e274a171cccc9391befbcb97c4a8f58cf45e3",
    ),
    (TEACHER, "e79e678d5e6d415d045ee2ba55f91858810b115cd5d53fc09d2fdf1f9dc5a9eb"),
    (
        TranscriberSpec(model="openai/whisper-tiny.en"),
        "abef2c222ab841d568d03edaab3770be52fa958280805cf0cdf40d187d00142a",
    ),
    (
        TranscriberSpec(model="openai/whisper-large-v2", weights_sha256="c" * 64, language="de"),
        "d57a12b97c3c8798ff27a3306bcba5f0fd03dfca487fa214865b588c4df745da",
    ),
]


@pytest.mark.parametrize(("spec", "known"), FIRST_EDITION)
def test_fingerprints_are_those_of_the_first_edition(spec: CachedSpec, known: str) -> None:
    assert spec.fingerprint == known  # another value would orphan every cache there is


@pytest.mark.parametrize("store", sorted(OLD_CACHE.iterdir()), ids=lambda path: path.name)
def test_a_store_of_the_first_edition_opens_with_its_own_attributes(store: Path) -> None:
    written = json.loads((store / "zarr.json").read_text("utf-8"))["attributes"]["rellm"]
    info = read_info(store)
    assert info.spec.fingerprint == written["fingerprint"]
    assert info.to_attributes()["rellm"] == written
    assert list(info.spec.to_json()) == list(written["encoder"])  # also in the same order
    assert find_store(OLD_CACHE, replace(info.spec, weights_sha256="")) == store
    assert store_path(OLD_CACHE, info.spec) == store


@dataclass(frozen=True)
class LaterEncoder(EncoderSpec):
    """An encoder's spec with fields that a later version added."""

    overlap: float = 0.0
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class LaterTranscriber(TranscriberSpec):
    """A transcriber's spec with a field that a later version added."""

    beams: int = 1


def test_a_later_field_enters_a_fingerprint_only_where_it_is_not_its_default() -> None:
    for kind, values in (
        (LaterEncoder, vars(SPEC)),
        (LaterTranscriber, vars(FIRST_EDITION[-1][0])),
    ):
        known = next(print for spec, print in FIRST_EDITION if vars(spec) == values)
        assert kind(**values).fingerprint == known
    later = LaterEncoder(**vars(SPEC), overlap=0.5, channels=(1, 2))
    assert later.fingerprint != SPEC.fingerprint
    assert later.to_json() == {**SPEC.to_json(), "overlap": 0.5, "channels": (1, 2)}
    assert LaterEncoder.from_json(json.loads(json.dumps(later.to_json()))) == later
    assert LaterTranscriber("m", beams=4).fingerprint != TranscriberSpec("m").fingerprint


def test_a_store_without_a_later_field_has_its_default() -> None:
    info = read_info(next(OLD_CACHE.glob("prosody-*")))
    read = LaterEncoder.from_json(info.spec.to_json())
    assert read == LaterEncoder(kind="prosody")
    assert read.fingerprint == info.spec.fingerprint
    assert read.differences(info.spec) == []
    assert replace(read, overlap=0.5).differences(info.spec) == ["overlap: wanted 0.5, found 0.0"]


def test_a_key_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    attributes = StoreInfo(LaterEncoder(kind="prosody", overlap=0.5), 5, "none").to_attributes()
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    (tmp_path / "zarr.json").write_text(json.dumps(group), "utf-8")
    with pytest.raises(StoreError, match=r"unknown key 'overlap', which a newer version of rellm"):
        read_info(tmp_path)
    with pytest.raises(ConfigError, match="key 'kind' is missing"):
        EncoderSpec.from_json({"weights": ""})


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
    assert recipe.encoders["speech"].differences(SPEC)[0].startswith("model: wanted '/")


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


def test_layers_are_in_the_fingerprint_only_if_there_are_several() -> None:
    several = replace(SPEC, layers=(1, 2), blocks=4)
    assert "layers" not in SPEC.to_json()
    assert several.fingerprint == replace(several, blocks=0).fingerprint
    assert several.fingerprint not in {SPEC.fingerprint, replace(SPEC, layers=(1, 3)).fingerprint}
    assert several.to_json()["layers"] == (1, 2)
    again = EncoderSpec.from_json(json.loads(json.dumps(several.to_json())))
    assert (again, again.blocks) == (several, 4)
    assert several.with_layers((2,)).fingerprint == replace(SPEC, layer=2).fingerprint


@pytest.mark.parametrize(
    ("layers", "slug"),
    [
        ((0, 1, 2, 3, 4), "whisper-tiny.en-layers0-4"),
        ((1, 2, 4, -1), "whisper-tiny.en-layers1-2+4+last"),
        ("all", "whisper-tiny.en-layersall"),
    ],
)
def test_the_slug_names_the_layers(layers: tuple[int, ...] | str, slug: str) -> None:
    assert replace(SPEC, layers=layers).slug == slug


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer": 2, "layers": (1, 2)}, r"found layer = 2 and layers = \[1, 2\], expected one"),
        ({"layer": 2, "layers": "all"}, r"found layer = 2 and layers = 'all', expected one"),
        ({"layers": (2,)}, r"layers = \[2\]: expected two or more; for one, write layer = 2"),
        ({"layers": (2, 1)}, r"layers = \[2, 1\]: expected ascending .*: \[1, 2\]"),
        ({"layers": (1, 1)}, r"layers = \[1, 1\]: expected ascending .*each once"),
        ({"layers": (-1, 1)}, r"layers = \[-1, 1\]: expected ascending .*: \[1, -1\]"),
        ({"layers": (-2, 1)}, r"layers = \[-2, 1\]: expected numbers, each -1 or more"),
    ],
)
def test_layers_that_are_no_list_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SPEC, **fields)


def test_frames_of_more_layers_serve_a_spec_and_are_not_equal_to_it() -> None:
    one, two = replace(SPEC, layer=2), replace(SPEC, layers=(1, 2))
    more = replace(SPEC, layers=(0, 1, 2, 3, 4), blocks=4)
    every = replace(SPEC, layers="all")
    for asked in (one, two, every):
        assert not asked.unmet_by(more)
        assert not asked.unmet_by(replace(more, layers=(0, 1, 2, 3, 4, -1)))
    assert one.layers_within(more) == (2,)
    assert every.layers_within(more) == (0, 1, 2, 3, 4)
    assert SPEC.unmet_by(more) == ["layers: wanted -1, found 0-4"]
    assert two.unmet_by(one) == ["layers: wanted 1-2, found 2"]
    assert every.unmet_by(replace(more, blocks=5)) == ["layers: wanted all, found 0-4"]
    assert one.differences(more)
    assert two.differences(more)
    assert not every.differences(more)
    assert not more.differences(every)
    assert every.differences(two)
    with pytest.raises(ConfigError, match='layers = "all" is not resolved yet'):
        _ = every.layer_numbers
