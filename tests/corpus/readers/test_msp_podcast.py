"""MSP-Podcast reader: the table of labels, hidden labels, the paper's random split."""

import json
from collections import Counter
from pathlib import Path

import pytest
from trees import MSP_HEADING, msp_name, put, write_msp

from rellm_cache.corpus.readers.base import require_totals
from rellm_cache.corpus.readers.msp_podcast import MspPodcastSplits, read_msp_podcast
from rellm_cache.errors import ManifestError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_msp(tmp_path)


def test_dimensions_are_reordered_and_rescaled(tree: Path) -> None:
    clips = {u.id: u for u in read_msp_podcast(tree).utterances}
    clip = clips[f"msp-podcast/{msp_name(2)}"]
    assert clip.audio == str(tree / f"Audios/{msp_name(2)}.wav")
    assert (clip.text, clip.emotion) == ("Podcast clip 2.", "angry")
    assert clip.vad == pytest.approx((0.75, 0.8, 0.2))  # arousal, dominance, valence
    assert clip.speaker == "msp-podcast/Train2"
    assert clips[f"msp-podcast/{msp_name(5)}"].speaker == ""  # unknown is nobody


def test_hidden_labels_and_other_emotions_are_left_out_and_counted(tree: Path) -> None:
    corpus = read_msp_podcast(tree, MspPodcastSplits("full"))
    assert corpus.notes == [
        "2 clips of other emotions left out",
        "2 clips of Test3, whose labels are hidden, left out",
    ]
    assert Counter(u.split for u in corpus.utterances) == {"train": 24, "validation": 4, "test": 8}
    assert corpus.seed is None


def test_own_labels_keep_all_emotions_by_name(tree: Path, tmp_path: Path) -> None:
    table = tree / "Labels/labels_consensus.csv"
    table.write_text(f"{table.read_text()}\nnew.wav,Boredom,4,4,4,3,Female,Train\n")
    corpus = read_msp_podcast(tree, MspPodcastSplits("full", labels="keep"))
    four = dict.fromkeys(("neutral", "happy", "angry", "sad"), 9)
    found = Counter(u.emotion for u in corpus.utterances)
    assert found == {**four, "surprise": 1, "boredom": 1}
    assert corpus.own_labels
    assert corpus.totals == ()  # they are known of the four classes alone
    assert corpus.notes == [
        "1 clip without agreement left out",
        "2 clips of Test3, whose labels are hidden, left out",
    ]
    assert read_msp_podcast(tree, MspPodcastSplits(labels="keep")).totals == ()
    names = dict.fromkeys((*four, "surprise"), "any")
    file = tmp_path / "map.json"
    file.write_text(json.dumps(names))
    with pytest.raises(ManifestError, match=r"csv:42: EmoClass: found emotion 'Boredom', which"):
        read_msp_podcast(tree, MspPodcastSplits(labels=str(file)))
    file.write_text(json.dumps(names | {"Boredom": "bored"}))
    mapped = read_msp_podcast(tree, MspPodcastSplits("full", labels=str(file)))
    assert Counter(u.emotion for u in mapped.utterances) == {"any": 37, "bored": 1}


def test_paper_splits_do_not_use_development(tree: Path) -> None:
    corpus = read_msp_podcast(tree)
    assert Counter(u.split for u in corpus.utterances) == {"train": 22, "validation": 2, "test": 8}
    assert not [u for u in corpus.utterances if "Development" in u.speaker]


def test_paper_splits_have_the_papers_numbers(tmp_path: Path) -> None:
    rows = [MSP_HEADING]
    for split, count in (("Train", 57_211), ("Test1", 20_000), ("Test2", 11_139)):
        rows += [f"{split}_{i}.wav,N,4,4,4,7,Male,{split}" for i in range(count)]
    put(tmp_path / "Labels/labels_consensus.csv", "\n".join(rows).encode())
    corpus = read_msp_podcast(tmp_path)
    assert Counter(u.split for u in corpus.utterances) == {
        "train": 3861, "validation": 429, "test": 1245,
    }  # fmt: skip
    assert len(corpus.problems.lines["clips without a transcript"]) == 5535
    assert [(t.name, t.found, t.expected) for t in corpus.totals] == [
        ("labels of train", 57_211, 57_211),
        ("labels of test", 31_139, 31_139),
        ("audio of train", 0, 4_290),
        ("audio of test", 0, 1_245),
    ]
    with pytest.raises(ManifestError, match=r"audio of train: found 0, expected 4290; .* of 5535"):
        require_totals(corpus)


def test_old_releases_are_read(tree: Path) -> None:
    table = tree / "Labels/labels_consensus.csv"
    old = table.read_text().replace("Development", "Validation")
    table.unlink()
    (tree / "Labels/labels_concensus.csv").write_text(old)
    corpus = read_msp_podcast(tree, MspPodcastSplits("full"))
    assert sum(u.split == "validation" for u in corpus.utterances) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,N,4,4,4,7,Male,Dev", "Split_Set 'Dev', expected one of Train, Development, "),
        (",N,4,4,4,7,Male,Train", "column 'FileName' is empty"),
        ("a.wav,Q,4,4,4,7,Male,Train", "EmoClass: unknown emotion 'Q'"),
        ("a.wav,,4,4,4,7,Male,Test1", "EmoClass: unknown emotion ''"),
        ("a.wav,N,4,high,4,7,Male,Train", r"dimensions \['4', '4', 'high'\] are not numbers"),
        ("a.wav,N", "found . values, expected one for each of the 8 columns of the header"),
        ("a.wav,N,4,0.5,4,7,Male,Train", "valence 0.5 is outside the scale 1..7"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    put(tmp_path / "Labels/labels_consensus.csv", f"{MSP_HEADING}\n{row}\n".encode())
    with pytest.raises(ManifestError, match=rf"labels_consensus.csv:2: {message}"):
        read_msp_podcast(tmp_path)


def test_a_missing_table_and_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"labels_consensus.csv: no such file; expected MSP-"):
        read_msp_podcast(tmp_path)
    put(
        tmp_path / "Labels/labels_consensus.csv",
        b"FileName,EmoClass,EmoAct,EmoVal,EmoDom\na,N,4,4,4\n",
    )
    with pytest.raises(
        ManifestError, match="column SpkrID, Split_Set is missing; found FileName, "
    ):
        read_msp_podcast(tmp_path)


@pytest.mark.parametrize("detailed", [True, False])
def test_raters_give_soft_labels(tree: Path, detailed: bool) -> None:
    rows = ["FileName,EmoDetail" if detailed else "FileName,EmoClass_Major"]
    for letter, votes in {2: "Angry Angry Sad", 900: "Happy Sad", 3: "Other-Bored Longing"}.items():
        for n, vote in enumerate(votes.split()):
            told = f'"WORKER{n}; {vote}; Happy,Amused; A:4; V:4; D:4;"' if detailed else vote
            rows.append(f"{msp_name(letter)}.wav,{told}")
    put(tree / "Labels/labels_detailed.csv", "\n".join(rows).encode())
    corpus = read_msp_podcast(tree, MspPodcastSplits("full", soft=True))
    found = {u.id.removeprefix("msp-podcast/"): u for u in corpus.utterances}
    assert found[msp_name(2)].soft_emotion == pytest.approx(
        {"angry": 2 / 3, "sad": 1 / 3}, abs=1e-6
    )
    assert found[msp_name(2)].emotion == "angry"
    assert found[msp_name(900)].emotion is None  # no agreement
    assert found[msp_name(3)].soft_emotion == {"other": 1.0}
    assert len(corpus.problems.lines["emotions of raters read as other"]) == 1
    assert "clips without raters left out" in " ".join(corpus.notes)
    (tree / "map.json").write_text(
        json.dumps(
            dict.fromkeys(("neutral", "happy", "surprise", "other"), "rest")
            | {"angry": "bad", "sad": "bad"}
        )
    )
    own = read_msp_podcast(tree, MspPodcastSplits(soft=True, labels=str(tree / "map.json")))
    shares = {u.id.removeprefix("msp-podcast/"): u.soft_emotion for u in own.utterances}
    assert shares == {
        msp_name(2): {"bad": 1.0},
        msp_name(900): {"bad": 0.5, "rest": 0.5},
        msp_name(3): {"rest": 1.0},
    }
    four = read_msp_podcast(tree, MspPodcastSplits("paper", soft=True))
    assert {u.id for u in four.utterances} <= {f"msp-podcast/{msp_name(n)}" for n in (2, 3)}
