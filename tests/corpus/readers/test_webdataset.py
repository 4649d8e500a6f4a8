"""WebDataset shards: samples, patterns of shards, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from miniature.containers import write_tar

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.webdataset import (
    WebdatasetOptions,
    expand_braces,
    find_shards,
    read_webdataset,
)
from rellm_cache.errors import ManifestError

MakeClip = Callable[..., Path]


def test_samples_become_utterances_that_point_into_the_tar(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    sound = make_clip("a.flac").read_bytes()
    row = {"text": "Hi.", "emotion": "hap", "speaker": 7, "vad": [0.1, 0.2, 0.3], "snr": 9.5}
    (tmp_path / "set").mkdir()
    shard = write_tar(
        tmp_path / "set/train-0.tar",
        {"./x/1.flac": sound, "./x/1.json": json.dumps(row).encode(), "./x/._1.flac": b"Mac"},
    )
    corpus = read_webdataset(shard)
    (found,) = corpus.utterances
    assert found.audio.startswith(f"{shard}:")
    assert found.audio.endswith(f":{len(sound)}#./x/1.flac")
    assert (found.id, found.text, found.emotion) == ("set/x/1", "Hi.", "happy")
    assert (found.speaker, found.vad, found.split) == ("7", (0.1, 0.2, 0.3), "train")
    assert corpus.notes == ["Columns of the table that are not used: snr"]
    assert load_clip(found).waveform.tobytes() == load_clip_of(tmp_path / "a.flac")
    assert [*corpus.problems.lines] == ["members that belong to no sample, not read"]


def load_clip_of(path: Path) -> bytes:
    from rellm_cache.corpus.manifest import Utterance

    return load_clip(Utterance("x", str(path))).waveform.tobytes()


def test_texts_and_classes_of_their_own_files(make_clip: MakeClip, tmp_path: Path) -> None:
    sound = make_clip("a.wav").read_bytes()
    members = {"1.wav": sound, "1.txt": b"\xef\xbb\xbfHi.\n", "1.cls": b"2", "1.mood": b"sad"}
    shard = write_tar(tmp_path / "a.tar", members)
    (tmp_path / "map.json").write_text('{"2": "angry"}', "utf-8")
    corpus = read_webdataset(shard, WebdatasetOptions(labels=str(tmp_path / "map.json")))
    assert (corpus.utterances[0].text, corpus.utterances[0].emotion) == ("Hi.", "angry")
    assert corpus.notes[:2] == ["The text is the samples' .txt", "The emotion is the samples' .cls"]
    corpus = read_webdataset(shard, WebdatasetOptions(emotion_column="mood", split="test"))
    assert (corpus.utterances[0].emotion, corpus.utterances[0].split) == ("sad", "test")


def test_the_sound_of_several_is_chosen_by_its_extension(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    sound, other = make_clip("a.wav").read_bytes(), make_clip("b.wav", seconds=2).read_bytes()
    shard = write_tar(tmp_path / "a.tar", {"1.wav": sound, "1.far.WAV": other})
    with pytest.raises(
        ManifestError, match=r"a.tar: 1: found several sounds, .wav, .far.wav; .*--au"
    ):
        read_webdataset(shard)
    (found,) = read_webdataset(shard, WebdatasetOptions(audio_column="far.wav")).utterances
    assert load_clip(found).seconds == 2


def test_samples_without_sound_are_left_out_and_listed(make_clip: MakeClip, tmp_path: Path) -> None:
    sound = make_clip("a.wav").read_bytes()
    shard = write_tar(tmp_path / "a.tar", {"1.json": b"{}", "2.wav": sound, "3.png": b"image"})
    corpus = read_webdataset(shard)
    assert [u.id for u in corpus.utterances] == [f"{tmp_path.name}/2"]
    assert corpus.problems.lines["samples without sound, left out"] == [
        f"{shard}: 1: found .json", f"{shard}: 3: found .png",
    ]  # fmt: skip
    write_tar(shard, {"1.json": b"{}"})
    with pytest.raises(ManifestError, match=r"a.tar: found no sample with sound in 1 tar"):
        read_webdataset(shard)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{08..10}.tar", ["s-08.tar", "s-09.tar", "s-10.tar"]),
        ("{b,a}-{1..2}", ["b-1", "b-2", "a-1", "a-2"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{8..10}", ["8", "9", "10"]),
        ("a{b}c{}", ["a{b}c{}"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
    ],
)
def test_braces_are_expanded_as_by_a_shell(pattern: str, names: list[str]) -> None:
    assert [*expand_braces(pattern)] == names


@pytest.mark.parametrize("pattern", ["{0..9999999999}", "{1..1000}{1..1000}{1..1000}"])
def test_absurd_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ManifestError, match=r"names more than 1000000 files"):
        expand_braces(pattern)


def test_shards_are_found_by_folder_and_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s-0.tar", "s-1.tar", "x/s-2.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, {})
    monkeypatch.chdir(tmp_path)
    assert [*map(str, find_shards("s-*.tar"))] == ["s-0.tar", "s-1.tar"]
    assert [*map(str, find_shards("."))] == ["s-0.tar", "s-1.tar", "x/s-2.tar"]
    assert [*map(str, find_shards("{x/s-2,s-0}.tar"))] == [
        "x/s-2.tar", "s-0.tar",
    ]  # fmt: skip
    for pattern, message in [
        ("s-{0..2}.tar", r"s-2.tar: no such file; expected a tar file"),
        ("{s,s}-0.tar", r"names s-0.tar twice"),
        ("pipe:cat s-0.tar", r"pipe:cat s-0.tar: no such file"),
    ]:
        with pytest.raises(ManifestError, match=message):
            find_shards(pattern)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"empty: found no \*.tar"):
        find_shards("empty")
    (tmp_path / "s.tar.gz").touch()
    with pytest.raises(ManifestError, match=r"s.tar.gz: expected a name that ends with .tar"):
        find_shards("s.tar.gz")


def test_broken_samples_are_named(make_clip: MakeClip, tmp_path: Path) -> None:
    sound = make_clip("a.wav").read_bytes()
    shard = tmp_path / "a.tar"
    for members, message in [
        ({"1.wav": sound, "1.json": b"[1]"}, r"a.tar: 1.json: .*correct the sample"),
        ({"1.wav": sound, "1.json": b"\xff"}, r"a.tar: 1: 1.json cannot be read as UTF-8"),
        ({"1.wav": sound, "1.WAV": sound}, r"members 1.wav and 1.WAV are the same file of one"),
        ({"1.wav": sound, "1.json": b'{"emotion": "bored"}'}, r"a.tar: 1: unknown emotion 'bored'"),
        (
            {"1.wav": sound, "1.json": b'{"text": [1]}'},
            r"a.tar: 1: found text \[1\], expected text",
        ),
    ]:
        write_tar(shard, members)
        with pytest.raises(ManifestError, match=message):
            read_webdataset(shard)
    for name in ("b", "c"):
        write_tar(tmp_path / f"{name}.tar", {"1.wav": sound})
    with pytest.raises(ManifestError, match=r"ids occur more than once, the first is"):
        prepare(read_webdataset(tmp_path / "{b,c}.tar"), tmp_path / "out")


def test_damaged_shards_are_named_and_a_missing_end_is_told(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    shard = write_tar(tmp_path / "a.tar", {"1.wav": make_clip("a.wav").read_bytes()})
    whole = shard.read_bytes()
    shard.write_bytes(whole[:9_000])
    with pytest.raises(ManifestError, match=r"a.tar: truncated or no archive"):
        read_webdataset(shard)
    shard.write_bytes(whole[: whole.rindex(b"\1") // 512 * 512 + 512])
    problems = read_webdataset(shard).problems.lines
    assert problems == {"shards without an end mark, which may be cut": [str(shard)]}
