"""Tiny random models saved by their own libraries, with a fixed seed."""

import csv
import string
from collections.abc import Sequence
from pathlib import Path

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

from rellm_cache.empathy.epitome import JUDGED, MECHANISMS
from rellm_cache.encoders.wav2vec2_emotion import EmotionModel

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Eleven clips: seconds, emotion, dimensions, split; the pitch tells the emotion.
WHISPER_SIZES: dict[str, int] = {
    "d_model": 16,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 80,
}


def save_whisper(folder: Path) -> Path:
    """A random Whisper: two encoder layers of 16 values."""
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


def save_emotion_model(folder: Path) -> Path:
    """A random wav2vec2 with an emotion head, in audeering's layout."""
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


def save_text_encoder(folder: Path) -> Path:
    """A random BERT of three layers of 16 values that knows a few words."""
    words = "i am so sorry that sounds hard how are you why what happened get up take a walk it"
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!'", *dict.fromkeys(words.split())]
    vocabulary = folder / "vocab.txt"
    folder.mkdir(parents=True)
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


def save_epitome(folder: Path) -> Path:
    """EPITOME's three tables in miniature: words tell the levels, 60 posts, some with two replies.

    "sorry" is an emotional reaction, a question an exploration, interpretations are at random.
    """
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


def save_llm(folder: Path) -> Path:
    """A random Llama with a byte-level tokenizer, ChatML's special tokens and a chat template."""
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
