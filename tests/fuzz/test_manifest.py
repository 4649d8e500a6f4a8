"""Fuzzing of manifests."""

from pathlib import Path

from fuzzing import damaged_lines, fuzz, value_or_named_error
from hypothesis import strategies as st

from rellm_cache.corpus.manifest import read_manifests, write_manifest

ROWS = [
    {
        "id": "demo/a", "audio": "a.wav", "text": "It is – so.", "emotion": "happy",
        "vad": [0.1, 0.2, 0.3], "vad_source": "human", "speaker": "s1", "split": "train",
        "duration": 1.5, "segment": [0.5, 2.0],
    },
    {"audio": "b.zip:100:200", "output": "Oh.", "avd_ans": {"arousal": 0.5}, "early_stop": True},
    {"id": "demo/c", "audio": "c.wav", "response": "Yes.", "speaker": "s2"},
]  # fmt: skip


def test_manifest(tmp_path: Path) -> None:
    path, again = tmp_path / "train.jsonl", tmp_path / "again.jsonl"

    def check(content: tuple[bytes, bytes]) -> None:
        path.write_bytes(content[0])
        (tmp_path / "train.responses.jsonl").write_bytes(content[1])

        def read() -> None:
            found = read_manifests(tmp_path)
            write_manifest(again, found)
            assert [u.id for u in read_manifests(again)] == [u.id for u in found]

        value_or_named_error(read, tmp_path)

    beside = damaged_lines([{"id": "demo/a", "response": "Good.", "early_stop": False}])
    fuzz(st.tuples(damaged_lines(ROWS), beside), check)
