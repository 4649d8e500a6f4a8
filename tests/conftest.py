"""Fixtures: tiny models saved by their own libraries, and a corpus of tones.

Models are random with a fixed seed and made once per session. A test that changes one copies it.
"""

import os

# No test may reach for a model hub; transformers reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import csv
import json
import logging
import shutil
import signal
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperTokenizer,
)
from whispers import UNSPOKEN

from rellm_cache.config.schema import (
    AdapterConfig,
    EncoderConfig,
    HeadsConfig,
    LLMConfig,
    LossesConfig,
    PromptsConfig,
    Recipe,
    TrainingConfig,
)
from rellm_cache.empathy.epitome import JUDGED, MECHANISMS
from rellm_cache.encoders.wav2vec2_emotion import EmotionModel

pytest_plugins = ["pipeline_fixtures"]

RAVDESS = Path(__file__).parents[1] / "../shared/data/ravdess"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Eleven clips: seconds, emotion, dimensions, split; the pitch tells the emotion.
CLIPS = [
    (1.2, "neutral", (0.4, 0.5, 0.5), "train"),
    (1.5, "happy", (0.7, 0.6, 0.9), "train"),
    (3.0, "angry", (0.9, 0.9, 0.1), "train"),
    (2.1, "sad", (0.2, 0.2, 0.2), "train"),
    (1.3, "surprise", (0.8, 0.5, 0.7), "train"),
    (2.6, "neutral", (0.5, 0.4, 0.5), "train"),
    (1.8, "happy", (0.6, 0.7, 0.8), "train"),
    (1.4, "sad", (0.3, 0.3, 0.1), "validation"),
    (2.2, "angry", (0.8, 0.8, 0.2), "validation"),
    (1.7, "surprise", (0.9, 0.4, 0.8), "test"),
    (2.4, "neutral", None, "test"),
]
HERTZ = {"neutral": 150, "happy": 260, "angry": 330, "sad": 110, "surprise": 440}


WHISPER_SIZES: dict[str, int] = {
    "d_model": 16,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 80,
}


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background job starts with it ignored."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper: two encoder layers of 16 values."""
    folder = tmp_path_factory.mktemp("models") / "tiny-whisper"
    torch.manual_seed(1)
    config = WhisperConfig(
        **WHISPER_SIZES,
        encoder_layers=2,
        **UNSPOKEN,
    )
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def save_whisper_writer(folder: Path, languages: Sequence[str]) -> Path:
    """A random Whisper that writes letters; English-only where it is given no languages."""
    letters = [*string.ascii_lowercase, "\u0120", "."]  # the second last stands for a space
    marks = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in languages)]
    marks += ["<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
    tokenizer = WhisperTokenizer({c: i for i, c in enumerate([*letters, *marks])}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.save_pretrained(folder)
    ids = {mark: len(letters) + i for i, mark in enumerate(marks)}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    torch.manual_seed(6)
    config = WhisperConfig(
        **WHISPER_SIZES,
        encoder_layers=1,
        max_target_positions=32,
        vocab_size=len(letters) + len(marks),
        pad_token_id=end,
        bos_token_id=start,
        eos_token_id=end,
        decoder_start_token_id=start,
        init_std=0.5,
    )
    model = WhisperForConditionalGeneration(config)
    spoken = {
        "lang_to_id": {f"<|{name}|>": ids[f"<|{name}|>"] for name in languages},
        "task_to_id": {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")},
    }
    model.generation_config = GenerationConfig.from_dict(
        {
            **(spoken if languages else {}),
            "is_multilingual": bool(languages),
            "no_timestamps_token_id": ids["<|notimestamps|>"],
            "suppress_tokens": [i for i in ids.values() if i != end],
            "pad_token_id": end,
            "eos_token_id": end,
            "decoder_start_token_id": start,
            "max_length": 32,
        }
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random English-only Whisper that writes letters."""
    return save_whisper_writer(tmp_path_factory.mktemp("models") / "tiny-writer.en", ())


@pytest.fixture(scope="session")
def languages_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper that writes letters and knows two languages."""
    return save_whisper_writer(tmp_path_factory.mktemp("models") / "tiny-writer", ("en", "de"))


@pytest.fixture(scope="session")
def emotion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random wav2vec2 with an emotion head, in audeering's layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny-emotion"
    torch.manual_seed(2)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        initializer_range=0.2,
    )
    EmotionModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of three layers of 16 values that knows a few words."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = "i am so sorry that sounds hard how are you why what happened get up take a walk it"
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!'", *dict.fromkeys(words.split())]
    vocabulary = folder / "vocab.txt"
    folder.mkdir()
    vocabulary.write_text("\n".join(known))
    BertTokenizerFast(str(vocabulary), model_max_length=40).save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def epitome_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EPITOME's three tables in miniature: words tell the levels, 60 posts, some with two replies.

    "sorry" is an emotional reaction, a question an exploration, interpretations are at random.
    """
    folder = tmp_path_factory.mktemp("epitome")
    replies = (
        ("get up and take a walk.", (0, 0), ("", "")),
        ("i am so sorry.", (2, 0), ("i am so sorry", "")),
        ("that sounds hard. what happened?", (1, 2), ("that sounds hard", "what happened?")),
        ("why?", (0, 1), ("", "why?")),
    )
    tables: dict[str, list[list[str]]] = {name: [] for name in MECHANISMS.values()}
    for index in range(72):
        post = f"p{index % 60}"
        seeker = f"it sounds so hard, {post}"
        response, levels, rationales = replies[index % 4]
        for name, level, part in zip(
            tables,
            (levels[0], index % 3, levels[1]),
            (rationales[0], "", rationales[1]),
            strict=True,
        ):
            written = f"{part}|" if part else ""
            tables[name].append([post, f"r{index}", seeker, response, str(level), written])
    for name, rows in tables.items():
        with (folder / f"{name}-reddit.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([JUDGED, *rows])
    return folder


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a byte-level tokenizer, ChatML's special tokens and a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(letters) + len(SPECIAL_TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=len(letters) + SPECIAL_TOKENS.index("<|im_end|>"),
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(whisper_folder: Path, emotion_folder: Path, llm_folder: Path) -> Recipe:
    """Both streams, a small adapter and the tiny chat model, unquantised."""
    return Recipe(
        name="tiny",
        encoders={
            "speech": EncoderConfig(kind="whisper", model=str(whisper_folder)),
            "emotion": EncoderConfig(kind="wav2vec2-emotion", model=str(emotion_folder)),
        },
        adapter=AdapterConfig(preset="lite", width=16, bottleneck=16),
        heads=HeadsConfig(),
        losses=LossesConfig(emotion_lm=1.0),
        llm=LLMConfig(model=str(llm_folder), quantization="none"),
        # The tiny tokenizer has a token a byte; answers are short to be quick.
        prompts=PromptsConfig(example_tokens=1024, expected_response_tokens=6, answer_tokens=6),
        training=TrainingConfig(epochs=2, batch_size=2, gradient_accumulation=1, warmup_steps=2),
    )


@pytest.fixture
def speech_recipe(whisper_folder: Path) -> Recipe:
    """One stream and no LLM: enough to fill a cache."""
    return Recipe(
        name="speech",
        encoders={"speech": EncoderConfig(kind="whisper", model=str(whisper_folder))},
        adapter=AdapterConfig(preset="lite", width=16, bottleneck=16, output_size=32),
        losses=LossesConfig(response_lm=0.0),
    )


def tone(seconds: float, hertz: float = 220.0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """(S,) or (S, channels) float32: a decaying harmonic tone with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 5))
    noise = np.random.default_rng(round(hertz)).normal(0, 0.01, len(time))
    mono = (0.3 * voice * np.exp(-time) + noise).astype(np.float32)
    return mono if channels == 1 else np.stack([mono] * channels, axis=1)


MakeClip = Callable[..., Path]


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """`make_clip("a.wav", seconds=1.5)` writes a tone into the test's folder and returns its path;
    `samples=` writes those instead, `subtype=` chooses the sample format.
    """

    def make(
        name: str,
        seconds: float = 1.5,
        hertz: float = 220.0,
        rate: int = 16_000,
        channels: int = 1,
        samples: np.ndarray | None = None,
        subtype: str | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = tone(seconds, hertz, rate, channels) if samples is None else samples
        soundfile.write(path, data, rate, subtype=subtype)
        return path

    return make


@pytest.fixture
def corpus(tmp_path: Path, make_clip: MakeClip) -> Path:
    """A manifest folder of eleven tones in three splits; the audio lies beside it."""
    rows: dict[str, list[str]] = {}
    for index, (seconds, emotion, vad, split) in enumerate(CLIPS):
        path = make_clip(f"audio/{index:02d}.wav", seconds, HERTZ[emotion] + index)
        row = {
            "id": f"tones/{index:02d}",
            "audio": f"../{path.relative_to(tmp_path)}",
            "text": f"This is tone number {index % 3}.",
            "emotion": emotion,
            "vad": vad,
            "split": split,
            "duration": seconds,
        }
        rows.setdefault(split, []).append(json.dumps({k: v for k, v in row.items() if v}))
    folder = tmp_path / "manifest"
    folder.mkdir()
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def ravdess() -> Path:
    """The real corpus, where it has been placed beside the checkout."""
    if not RAVDESS.is_dir():
        pytest.skip("RAVDESS is not at ../shared/data/ravdess (it is not ours to ship)")
    return RAVDESS


class Requests(logging.Handler):
    """What an S3 server was asked: `GET /bucket/key`, one a line of its log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().partition('"')[2].partition(" HTTP/")[0])

    def of_frames(self, method: str = "GET") -> list[str]:
        """Names of the shard files that were fetched, each as often as it was."""
        own = [line for line in self.lines if f"{method} /" in line and "/frames/c/" in line]
        return [line.partition("/cache/")[2] for line in own]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Requests]:
    """An S3 server on loopback, which the client library finds by its environment."""
    from moto.server import ThreadedMotoServer  # a second that few tests need

    requests = Requests()
    log = logging.getLogger("werkzeug")
    log.addHandler(requests)
    log.propagate = False
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment:
        for key, value in settings.items():
            environment.setenv(key, value)
        yield requests
    server.stop()
    log.removeHandler(requests)


@dataclass(frozen=True)
class S3:
    """A bucket of a test's own.

    Attributes:
        url: of a cache root in it.
        copies: where copies of it lie.
        requests: what the server was asked since the test began.
    """

    url: str
    copies: Path
    requests: Requests
    files: Any = field(repr=False)

    def path(self, name: str) -> str:
        """Of a file below the root, as `files` knows it."""
        return f"{self.url}/{name}".removeprefix("s3://")

    def names(self) -> set[str]:
        """Every file below the root."""
        self.files.invalidate_cache()
        top = self.path("")
        return {name.removeprefix(top) for name in self.files.find(top)}

    def flip(self, name: str, byte: int = 0) -> None:
        """Change one bit of a file."""
        data = bytearray(self.files.cat_file(self.path(name)))
        data[byte] ^= 1
        self.files.pipe_file(self.path(name), bytes(data))

    def forget_copies(self) -> None:
        """Remove all copies, as on another machine."""
        shutil.rmtree(self.copies)


@pytest.fixture
def s3(s3_server: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> S3:
    """An empty bucket and an empty folder for copies."""
    monkeypatch.setenv("RELLM_COPIES", str(tmp_path / "copies"))
    files = fsspec.filesystem("s3")
    bucket = f"bucket-{abs(hash(request.node.nodeid)):x}"
    files.mkdir(bucket)
    s3_server.lines.clear()
    return S3(f"s3://{bucket}/cache", tmp_path / "copies", s3_server, files)
