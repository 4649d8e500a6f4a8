"""Statistics of a manifest: durations, dimensions, overlap of splits."""

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.statistics import Overlap, survey


def utterance(number: int, split: str, speaker: str, text: str, seconds: float) -> Utterance:
    return Utterance(
        id=f"x/{number}", audio="a.wav", text=text, speaker=speaker, split=split, duration=seconds
    )


CLIPS = [
    utterance(0, "train", "a", "One.", 1.0),
    utterance(1, "train", "b", "Two.", 1.99),
    utterance(2, "test", "b", "one", 2.0),
    utterance(3, "test", "", "ONE!", 30.0),
    utterance(4, "test", "b", "", 5.5),
]


def test_durations_by_range() -> None:
    assert survey(CLIPS).durations == {
        "1-2 s": 2, "2-3 s": 1, "3-4 s": 0, "4-5 s": 0, "5-6 s": 1, "6-8 s": 0, "8-10 s": 0,
        "10-15 s": 0, "15-20 s": 0, "20-30 s": 0, ">=30 s": 1,
    }  # fmt: skip
    assert survey([Utterance(id="x", audio="a.wav")]).durations == {}


def test_overlap_of_splits_leaves_out_unknown_speakers_and_texts() -> None:
    found = survey(CLIPS)
    assert found.overlaps == [
        Overlap("speakers", "train", "test", shared=1, clips=2, total=3),
        Overlap("texts", "train", "test", shared=1, clips=2, total=3),
    ]
    assert found.without_text == 1
    assert found.speakers == {"train": {"a": 1, "b": 1}, "test": {"b": 2}}
    assert found.emotions == {"train": {"none": 2}, "test": {"none": 3}}


def test_warnings_name_the_source_of_the_dimensions() -> None:
    vads = {"angry": (0.1, 0.2, 0.6), "sad": (0.8, 0.9, 0.5), "happy": (0.4, 0.5, 0.2)}
    clips = [
        Utterance(id=f"{e}{i}", audio="a", emotion=e, vad=vad, vad_source="pseudo")
        for e, vad in vads.items()
        for i in range(5)
    ]
    (warning,) = survey([*clips, Utterance(id="x", audio="a", vad=(0.5, 0.5, 0.5))]).warnings
    assert warning.startswith("pseudo dimensions: arousal is 0.10 for angry and 0.80 for sad")


def test_dimensions_are_summarized_by_source() -> None:
    clips = [
        Utterance(id="a", audio="a", emotion="sad", vad=(0.1, 0.2, 0.3), vad_source="human"),
        Utterance(id="b", audio="b", emotion="sad", vad=(0.5, 0.6, 0.7), vad_source="pseudo"),
        Utterance(id="c", audio="c", emotion="sad"),
    ]
    found = survey(clips)
    assert {source: s.clips for source, s in found.dimensions.items()} == {"human": 1, "pseudo": 1}
    assert found.to_json()["dimensions"]["pseudo"]["means"] == {
        "sad": {"arousal": 0.5, "dominance": 0.6, "valence": 0.7}
    }
