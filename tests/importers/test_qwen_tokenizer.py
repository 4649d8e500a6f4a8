"""The imported Qwen v1 tokenizer gives the same tokens as tiktoken, on text where rules differ."""

import base64
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizers import Tokenizer, models, trainers
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from rellm_cache.errors import ConfigError
from rellm_cache.importers.qwen_tokenizer import SPECIAL_TOKENS, make_tokenizer, read_ranks

SAMPLES = [
    "Hello world, it's I'LL don't they've WE'RE I'd o'clock 'tis",
    "1 22 333 4444 3.14159 1,000,000 2024-05-17 x2 2x",
    "  leading   runs\tof \t whitespace  \n\n  and lines\r\n\r\n   end   ",
    "你好,世界!今天天气很好。他说“我很高兴”、再见。",
    "日本語とカタカナ、한국어, русский язык, नमस्ते दुनिया, ไทย",
    "👍🏽 😀😀 👨\u200d👩\u200d👧 🇩🇪 ½ ① ﬁ ™",
    "e\u0301 \u00e9 n\u0303 A\u030a",  # composed by NFC
    "def f(x):\n    return {'a': x[0]} # !!! ... ??? ---\n",
    "",
    " ",
    "\u3000\u00a0\u2003 wide spaces",
]


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    """A byte-level BPE trained on the samples, with Qwen2's rules: what the ranks come from."""
    tokenizer = Tokenizer(models.BPE())
    rules = Qwen2Tokenizer().backend_tokenizer
    tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    alphabet = list(byte_of_letter())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLES * 3, trainer)
    assert tokenizer.get_vocab_size() > 400  # it learned merges
    return tokenizer


def byte_of_letter() -> dict[str, int]:
    """Which byte each letter of the byte-level alphabet stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


@pytest.fixture(scope="module")
def ranks_file(original: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    back = byte_of_letter()
    rows = [(bytes(back[c] for c in t), rank) for t, rank in original.get_vocab().items()]
    path = tmp_path_factory.mktemp("ranks") / "qwen.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % rank for t, rank in rows))
    return path


@pytest.fixture(scope="module")
def converted(ranks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saved and loaded again, as a model folder's tokenizer is."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(read_ranks(ranks_file), chat=True).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def texts() -> list[str]:
    """The samples, and pieces of them in disorder."""
    generator = random.Random(7)
    pieces = [piece for sample in SAMPLES for piece in (*sample.split(" "), *sample, " ", "  ")]
    return SAMPLES + ["".join(generator.choices(pieces, k=12)) for _ in range(400)]


def test_tokens_are_those_the_ranks_come_from(original: Tokenizer, converted: Any) -> None:
    for text in texts():
        assert converted(text)["input_ids"] == original.encode(text).ids


def test_tokens_are_tiktokens_of_the_normalized_text(ranks_file: Path, converted: Any) -> None:
    reference = tiktoken.Encoding(
        "qwen",
        pat_str=PRETOKENIZE_REGEX,
        mergeable_ranks=read_ranks(ranks_file),
        special_tokens={},
    )
    for text in texts():
        normal = unicodedata.normalize("NFC", text)
        assert converted(text)["input_ids"] == reference.encode(normal)
        assert converted.decode(converted(text)["input_ids"]) == normal


def test_special_tokens_follow_the_ranks(converted: Any, ranks_file: Path) -> None:
    first = len(read_ranks(ranks_file))
    ids = converted.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(first, first + 208))
    text = "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>"
    found = converted(text)["input_ids"]
    assert [i for i in found if i >= first] == [first + 1, first + 2, first]
    assert converted.decode(found) == text


def test_the_chat_template_is_chatml(converted: Any) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    text = converted.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    turns = [{"role": "system", "content": "Be kind."}, *turns]
    text = converted.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: [*lines[:9], b"not a rank", *lines[9:]],
            r"tiktoken, line 10: found b'not a",
        ),
        (
            lambda lines: [*lines[:9], b"!!!! 9", *lines[10:]],
            r"line 10: found b'!!!! 9', expected a",
        ),
        (lambda lines: [*lines[:-9], lines[-1]], "the ranks of [0-9]+ tokens have gaps"),
        (
            lambda lines: [b"QUJDREVGRw== 0", *lines[1:]],
            "token for each of the 256 bytes",
        ),
    ],
    ids=["no pair", "no base64", "with a gap", "without a byte"],
)
def test_a_damaged_file_is_named(
    ranks_file: Path, tmp_path: Path, change: Any, message: str
) -> None:
    lines = sorted(ranks_file.read_bytes().splitlines(), key=lambda line: int(line.split()[1]))
    damaged = tmp_path / "qwen.tiktoken"
    damaged.write_bytes(b"\n".join(change(lines)))
    with pytest.raises(ConfigError, match=message):
        read_ranks(damaged)
    with pytest.raises(ConfigError, match=r"none\.tiktoken: no such file"):
        read_ranks(tmp_path / "none.tiktoken")
