"""Hostile files: random files of each format, made by a small grammar and then often damaged.

Most of a file is valid, so that it gets past the first check; some tokens are what breaks readers.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

NUMBERS = ("0", "-1", "1e400", "1" * 400, "1" * 5000, "NaN", "-Infinity", "0.5", "2147483648", "-0")
TEXTS = (
    "", "a", "nan", "=1+1", "\x00", "\u202e", "é", "e\u0301", "{speech}", "<|im_end|>", "../../etc",
    "x" * 3000, "\ud83d\ude00", "\u2028", "[", '"', "'", "\t", "NULL", "/dev/zero", ".", "-",
)  # fmt: skip
BYTES = (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n\n", b"\x1a")

Make = Callable[[random.Random], bytes]


def damaged(content: bytes, source: random.Random) -> bytes:
    """Often the content as it is; else with a bit flipped, a cut, a block of zeros or new bytes."""
    data = bytearray(content)
    for _ in range(source.choice((0, 0, 1, 1, 3))):
        place = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0 if place < len(data):
                data[place] ^= 1 << source.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place : place + 16] = bytes(16)
            case 3:
                data[place:place] = source.choice(BYTES)
            case _:
                data[place:place] = data[: source.randrange(64)]
    return bytes(data)


def json_value(source: random.Random, depth: int = 0) -> str:
    """A JSON value as text, sometimes nested very deep."""
    kind = source.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return source.choice(NUMBERS)
    if kind in (1, 2):
        return json.dumps(source.choice(TEXTS), ensure_ascii=source.random() < 0.5)
    if kind == 3:
        return source.choice(("null", "true", "false"))
    if kind == 4:
        return str(source.uniform(-2, 8))
    if kind == 5:
        return f"[{', '.join(json_value(source, depth + 1) for _ in range(source.randrange(4)))}]"
    if kind == 6 and source.random() < 0.1:
        return "[" * 100_000
    names = (source.choice(("id", "vad", "a", "")) for _ in range(source.randrange(3)))
    return f"{{{', '.join(f'{json.dumps(n)}: {json_value(source, depth + 1)}' for n in names)}}}"


def changed_json(document: dict[str, object], source: random.Random) -> str:
    """A JSON object as text, with some values replaced, removed or doubled."""
    parts = []
    for name, value in document.items():
        text = json.dumps(value, ensure_ascii=False)
        chance = source.random()
        if chance < 0.15:
            text = json_value(source)
        elif chance < 0.2 and isinstance(value, dict):
            text = changed_json(value, source)
        if chance < 0.95:
            parts.append(f"{json.dumps(name)}: {text}")
        if chance > 0.97:
            parts.append(f"{json.dumps(name)}: {json_value(source)}")
    return f"{{{', '.join(parts)}}}"


def manifest(source: random.Random) -> bytes:
    """Lines of a manifest."""
    lines = []
    for index in range(source.randrange(5)):
        row: dict[str, object] = {
            "id": f"c/{index}", "audio": source.choice(("a.wav", "../b.flac", "z.zip:0:10")),
            "text": source.choice(TEXTS), "emotion": source.choice(("sad", "happy", "calm", "")),
            "vad": [0.1, 0.2, 0.3], "vad_source": "human", "speaker": "s", "split": "train",
            "duration": 1.5, "segment": [0.0, 1.0], "early_stop": False,
        }  # fmt: skip
        lines.append(changed_json(row, source))
    return damaged("\n".join(lines).encode("utf-8", "surrogatepass"), source)


def table(source: random.Random) -> bytes:
    """A CSV table of sound files."""
    mark = source.choice((",", ",", ",", ";", "\t"))
    names = ["audio", "Text", "emotion", " split", "arousal", "vad", "speaker"]
    source.shuffle(names)
    rows = [names]
    for _ in range(source.randrange(5)):
        cells = [source.choice((*TEXTS, *NUMBERS, "a.wav", "sad", "train")) for _ in names]
        rows.append([f'"{c}"' if source.random() < 0.3 else c for c in cells])
    end = source.choice(("\n", "\r\n", "\r"))
    text = end.join(mark.join(row) for row in rows)
    return damaged(text.encode(source.choice(("utf-8", "utf-8", "utf-16")), "replace"), source)


def recipe(source: random.Random, valid: str) -> bytes:
    """A complete recipe with some values or lines changed."""
    lines = []
    for line in valid.splitlines():
        name, equals, _ = line.partition(" = ")
        chance = source.random()
        if equals and chance < 0.03:
            value = source.choice((*NUMBERS, '""', "[]", "{}", "[[[]]]", "inf", "0x10", "'''"))
            line = f"{name} = {value}"
        elif chance < 0.04:
            line = f"{line}\n{line}"
        elif chance < 0.05:
            line = source.choice(("[a.b.c]", "[[training]]", "= 1", "x = " + "[" * 2000))
        lines.append(line)
    return damaged("\n".join(lines).encode(), source)


def sound(source: random.Random, folder: Path) -> tuple[str, bytes]:
    """A sound file with a damaged head, and the ending of its name."""
    kind = source.choice(("WAV", "FLAC", "OGG", "MP3"))
    rate = source.choice((8000, 16_000, 44_100))
    path = folder / f"sound.{kind.lower()}"
    samples = np.random.default_rng(source.randrange(99)).normal(0, 0.1, (rate * 2, 1))
    soundfile.write(path, samples, rate, format=kind)
    data = bytearray(path.read_bytes())
    for _ in range(source.choice((1, 2, 8))):
        place = source.randrange(min(len(data), source.choice((16, 64, 512))))
        if source.random() < 0.5:
            data[place] = source.randrange(256)
        else:
            words = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)
            data[place : place + 4] = struct.pack("<I", source.choice(words))
    if source.random() < 0.2:
        del data[source.randrange(len(data)) :]
    return path.suffix, bytes(data)


def hdf5(source: random.Random, valid: bytes) -> bytes:
    """An exported store with bytes changed, most of them in its structure."""
    data = bytearray(valid)
    for _ in range(source.choice((1, 3, 10))):
        place = source.randrange(min(len(data), source.choice((64, 4096, len(data)))))
        data[place] = source.randrange(256)
    if source.random() < 0.2:
        del data[source.randrange(len(data)) :]
    return bytes(data)
