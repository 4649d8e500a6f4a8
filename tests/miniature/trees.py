"""Tiny corpora in the exact folder layouts of the real ones, with sound files of 1.1 seconds."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

# What people say of an emotion, as valence, arousal, dominance from 0 to 1.
FELT = {
    "neutral": (0.5, 0.4, 0.45),
    "happy": (0.85, 0.6, 0.55),
    "angry": (0.2, 0.75, 0.8),
    "sad": (0.25, 0.25, 0.3),
}
IEMOCAP_TURNS = (
    ("impro01", "F000", "neu", "Excuse me."),
    ("impro01", "M000", "hap", "I got it, session {n}!"),
    ("impro01", "F001", "exc", "Session {n} says yes."),
    ("impro01", "M001", "fru", "Again, {n}."),
    ("impro01", "F002", "sad", "Number {n} is gone."),
    ("script01_1b", "M000", "ang", "Don't you dare."),
    ("script01_1b", "F000", "ang", "I told you {n} times."),
    ("script01_1b", "M001", "sad", "She left, for the {n}th time."),
    ("script01_1b", "F001", "xxx", "What?"),
    ("script01_1b", "F002", "neu", "Café number {n}."),  # Latin-1 on disk
)
IEMOCAP_NAMES = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
ESD_EMOTIONS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
MSP_HEADING = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"


def wav_bytes(seconds: float = 1.1) -> bytes:
    """A short WAV file, 16 kHz, mono."""
    time = np.arange(round(16_000 * seconds)) / 16_000
    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(2 * np.pi * 220 * time), 16_000, format="WAV")
    return out.getvalue()


def write_iemocap(root: Path, sessions: Iterable[int] = range(1, 6)) -> Path:
    """Ten turns a session, eight of them in the four classes; six with a text of their own."""
    sound = wav_bytes()
    for n in sessions:
        folder = root / f"Session{n}"
        for dialog in ("impro01", "script01_1b"):
            name = f"Ses0{n}F_{dialog}"
            turns = [turn for turn in IEMOCAP_TURNS if turn[0] == dialog]
            labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            texts = []
            for i, (_, turn, label, text) in enumerate(turns):
                felt = FELT[IEMOCAP_NAMES.get(label, "neutral")]
                numbers = ", ".join(f"{1 + 4 * value:.4f}" for value in felt)
                labels += [
                    f"[{i}.2901 - {i + 1}.2357]\t{name}_{turn}\t{label}\t[{numbers}]",
                    "C-E2:\tNeutral;\t()",
                    "C-F1:\tAnger; Frustration;\t(curious)",
                    "A-E3:\tval 3; act 2; dom  2;\t()",
                    "A-F1:\tval 3; act 2; dom  1;\t()",
                    "",
                ]
                start, end = f"{i:03d}.2901", f"{i + 1:03d}.2357"
                texts.append(f"{name}_{turn} [{start}-{end}]: {text.format(n=n)}")
                put(folder / f"sentences/wav/{name}/{name}_{turn}.wav", sound)
            texts += ["M: [LAUGHTER]", f"{name}_FXX0 [009.0000-009.5000]: Mm."]
            put(folder / f"dialog/EmoEvaluation/{name}.txt", "\n".join(labels).encode())
            put(folder / f"dialog/transcriptions/{name}.txt", "\r\n".join(texts).encode("latin-1"))
        put(folder / "dialog/EmoEvaluation/Categorical/Ses01F_e1_cat.txt", b"[bad line\n")
        put(folder / "dialog/EmoEvaluation/._Ses01F_impro01.txt", b"\x00\x05\x16\x07[")
        put(folder / "dialog/transcriptions/._Ses01F_impro01.txt", b"\x00\x05\x16\x07")
    return root


def write_esd(root: Path, sentences: int = 12) -> Path:
    """Four speakers, each in another encoding; 0012 has the folders train, evaluation and test."""
    sound = wav_bytes()
    encodings = {"0011": "utf-8", "0012": "utf-16", "0016": "latin-1", "0019": "utf-16-le"}
    for speaker, encoding in encodings.items():
        lines = []
        for number, emotion in enumerate(ESD_EMOTIONS):
            for sentence in range(1, sentences + 1):
                clip = f"{speaker}_{350 * number + sentence:06d}"
                sub = ("train/", "evaluation/", "test/")[sentence % 3] if speaker == "0012" else ""
                put(root / speaker / emotion / f"{sub}{clip}.wav", sound)
                lines.append(f"{clip}\tSentence {sentence} of the café.\t{emotion}")
        put(root / speaker / f"{speaker}.txt", "\n".join(lines).encode(encoding))
    put(root / "0001/0001.txt", "中".encode("gb2312"))  # a Mandarin speaker
    put(root / "ReadMe.txt", b"")
    return root


def write_msp(root: Path, train: int = 24, test: int = 8) -> Path:
    """Clips of the four classes in turn, some of other classes, two of Test3 without labels."""
    sound = wav_bytes()
    rows = [MSP_HEADING]
    splits = ["Train"] * train + ["Development"] * 4 + ["Test1"] * (test - 2) + ["Test2"] * 2
    for i, split in enumerate(splits):
        letter, emotion = [("N", "neutral"), ("H", "happy"), ("A", "angry"), ("S", "sad")][i % 4]
        valence, arousal, dominance = (1 + 6 * value for value in FELT[emotion])
        speaker = "Unknown" if i % 6 == 5 else f"{split}{i % 3}"
        dimensions = f"{arousal:.6f},{valence:.6f},{dominance:.6f}"
        rows.append(f"{msp_name(i)}.wav,{letter},{dimensions},{speaker},Male,{split}")
        put(root / f"Transcripts/{msp_name(i)}.txt", f"Podcast clip {i}.\n".encode())
    rows += [
        f"{msp_name(900)}.wav,X,4.0,4.0,4.0,3,Female,Train",
        f"{msp_name(901)}.wav,U,4.0,4.0,4.0,3,Female,Test1",
        f"{msp_name(902)}.wav,,,,,,,Test3",
        f"{msp_name(903)}.wav,,,,,,,Test3",
    ]
    put(root / "Labels/labels_consensus.csv", "\n".join(rows).encode())
    for row in rows[1:]:
        put(root / "Audios" / row.partition(",")[0], sound)
    return root


def msp_name(number: int) -> str:
    """As the corpus names its segments."""
    return f"MSP-PODCAST_0001_{number:04d}"


def put(path: Path, data: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
