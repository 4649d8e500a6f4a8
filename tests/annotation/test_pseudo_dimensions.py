"""annotate: missing dimensions are filled from the emotion encoder's store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.annotation.pseudo_dimensions import annotate
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.manifest import read_manifest, read_manifests
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

HEAD = (1.25, 0.5, -0.125)  # arousal, dominance, valence; two beyond the scale


@pytest.fixture
def heads(corpus: Path, quick: Recipe, tmp_path: Path) -> Path:
    """A cache with a store of the emotion encoder, whose head said the same of every clip."""
    info = StoreInfo(replace(quick.encoders["emotion"], weights_sha256="0" * 64), 4, "none")
    with StoreWriter(tmp_path / "heads", info) as writer:
        for utterance in read_manifests(corpus):
            frames = np.ones((60, 4), np.float16)
            writer.add(utterance.id, np.zeros(32, np.uint8), frames, np.array(HEAD, np.float32))
    return tmp_path / "heads"


def test_after_extract_missing_dimensions_are_filled_and_marked(
    corpus: Path, cache: Path, quick: Recipe
) -> None:
    before = {u.id: u for u in read_manifests(corpus)}
    missing = {key for key, u in before.items() if u.vad is None}
    assert 0 < len(missing) < len(before)
    report = annotate(corpus, quick, cache)
    assert (report.filled, report.renewed) == (len(missing), 0)
    assert report.kept == len(before) - len(missing)
    store = FeatureStore.find(cache, quick.encoders["emotion"])
    for utterance in read_manifests(corpus):
        if utterance.id not in missing:
            assert utterance == before[utterance.id]
            continue
        head = store.vad(utterance.id)
        assert head is not None
        assert utterance.vad == pytest.approx(np.clip(head, 0, 1).tolist(), abs=1e-4)
        assert utterance.vad_source == "pseudo"
        assert replace(utterance, vad=None, vad_source=None) == before[utterance.id]


def test_values_outside_the_scale_are_clipped_and_counted(
    corpus: Path, heads: Path, quick: Recipe
) -> None:
    report = annotate(corpus, quick, heads)
    pseudo = [u for u in read_manifests(corpus) if u.vad_source == "pseudo"]
    assert {u.vad for u in pseudo} == {(1.0, 0.5, 0.0)}
    assert report.clipped == len(pseudo) == report.filled


def test_the_note_beside_the_manifest_names_the_encoder(
    corpus: Path, heads: Path, quick: Recipe
) -> None:
    report = annotate(corpus, quick, heads)
    note = json.loads((corpus / "annotations.json").read_text("utf-8"))
    assert note["vad_source"] == "pseudo"
    assert note["encoder"]["kind"] == "wav2vec2-emotion"
    assert note["encoder"]["weights"] == "0" * 64
    assert note["filled"] == report.filled
    assert "a function of the emotion encoder's frames" in note["note"]
    assert note["dimensions"].keys() == {"human", "pseudo"}


@pytest.mark.parametrize("part", ["", "test.jsonl"], ids=["folder", "file"])
def test_the_report_of_prepare_counts_the_new_dimensions(
    corpus: Path, heads: Path, quick: Recipe, tmp_path: Path, part: str
) -> None:
    manifest = tmp_path / "prepared"
    prepare(Corpus("x", read_manifests(corpus)), manifest)
    before = json.loads((manifest / "report.json").read_text("utf-8"))
    assert before["dimensions"].keys() == {"human"}
    report = annotate(manifest / part, quick, heads)
    after = json.loads((manifest / "report.json").read_text("utf-8"))
    assert after["dimensions"]["pseudo"]["clips"] == report.filled
    assert after["dimensions"]["human"] == before["dimensions"]["human"]
    assert {**after, "dimensions": None} == {**before, "dimensions": None}


@pytest.mark.parametrize(
    ("text", "found"), [("{", "not JSON .*"), ("[]", r"expected a JSON object, found \[\]")]
)
def test_a_report_that_cannot_be_read_changes_no_file(
    corpus: Path, heads: Path, quick: Recipe, text: str, found: str
) -> None:
    (corpus / "report.json").write_text(text)
    before = {f.name: f.read_bytes() for f in corpus.iterdir()}
    with pytest.raises(ManifestError, match=rf"report.json: {found}; remove it, or"):
        annotate(corpus, quick, heads)
    assert {f.name: f.read_bytes() for f in corpus.iterdir()} == before


def test_a_second_call_changes_nothing_and_rows_keep_their_fields(
    corpus: Path, heads: Path, quick: Recipe
) -> None:
    file = corpus / "test.jsonl"
    responses = b'{"id": "tones/09", "response": "So."}\n'
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text("".join(json.dumps({**row, "instruction": "Go on"}) + "\n" for row in rows))
    (corpus / "test.responses.jsonl").write_bytes(responses)
    first = annotate(file, quick, heads)
    content = file.read_bytes()
    second = annotate(file, quick, heads)
    assert (second.filled, second.renewed) == (0, first.filled)
    assert file.read_bytes() == content
    assert (corpus / "test.responses.jsonl").read_bytes() == responses
    assert (corpus / "test.annotations.json").exists()
    new = [json.loads(line) for line in content.decode().splitlines()]
    assert [row["audio"] for row in new] == [row["audio"] for row in rows]
    assert {row["instruction"] for row in new} == {"Go on"}
    assert all(u.vad for u in read_manifest(file))


def test_recipes_without_a_dimension_head_are_refused(
    corpus: Path, heads: Path, quick: Recipe, speech_recipe: Recipe
) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'speech': found encoders whisper, which"):
        annotate(corpus, speech_recipe, heads)
    prosody = replace(quick, encoders={**quick.encoders, "emotion": EncoderConfig(kind="prosody")})
    with pytest.raises(
        ConfigError, match=r"found encoders whisper, prosody, .* 'wav2vec2-emotion'"
    ):
        annotate(corpus, prosody, heads)


def test_a_store_without_dimensions_is_named(corpus: Path, quick: Recipe, tmp_path: Path) -> None:
    info = StoreInfo(replace(quick.encoders["emotion"], weights_sha256="0" * 64), 4, "none")
    with StoreWriter(tmp_path / "bare", info) as writer:
        for utterance in read_manifests(corpus):
            writer.add(utterance.id, np.zeros(32, np.uint8), np.ones((60, 4), np.float16))
    with pytest.raises(StoreError, match=r"dimensions of clip 'tones/\d+': none; expected three"):
        annotate(corpus, quick, tmp_path / "bare")


def test_a_clip_that_is_not_cached_changes_no_file(
    corpus: Path, heads: Path, quick: Recipe
) -> None:
    with (corpus / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "tones/new", "audio": "new.wav"}\n')
    before = {f.name: f.read_bytes() for f in corpus.iterdir()}
    with pytest.raises(StoreError, match=r"1 of \d clips are absent .*'tones/new'; .*rellm extr"):
        annotate(corpus, quick, heads)
    assert {f.name: f.read_bytes() for f in corpus.iterdir()} == before
