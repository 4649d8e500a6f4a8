"""Made data of IEMOCAP's size: frames, labels and responses, and a chat format without a tokenizer.

Values are random and say nothing; their number is that of real clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import Example
from rellm_cache.data.examples import make_examples
from rellm_cache.data.streams import StreamSet, pooled_streams
from rellm_cache.encoders.registry import resolve
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prompts import CHATML_TOKENS, ChatFormat
from rellm_cache.model.losses.registry import active_losses
from rellm_cache.speed.known_shapes import frame_size
from rellm_cache.speed.sizes import CLIP_SECONDS, RESPONSE_TOKENS
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames


def made_chat() -> ChatFormat:
    """A ChatML format whose tokenizer takes each word and each mark for a token, all unknown."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CHATML_TOKENS])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>"
    )
    return ChatFormat(made, "chatml")


def made_streams(encoders: Mapping[str, EncoderConfig], clips: int) -> StreamSet:
    """Random frames of clips "0", "1" … of `CLIP_SECONDS` for each stream of a recipe.

    Raises:
        ConfigError: the number of values in a frame is not known.
    """
    return StreamSet(
        {name: _made_frames(encoder, clips) for name, encoder in encoders.items()},
        pooled=pooled_streams(encoders),
    )


def _made_frames(encoder: EncoderConfig, clips: int) -> InMemoryFrames:
    spec = replace(encoder, dtype="float16")
    if spec.layers == "all":
        spec = replace(spec, layers=resolve(spec).layers)
    info = StoreInfo(spec, frame_size(spec), "none (made)")
    frames = InMemoryFrames(info)
    random = np.random.default_rng(info.frame_size)
    size = (round(spec.frame_rate * CLIP_SECONDS), *info.frame_shape)
    for index in range(clips):
        frames.add(str(index), random.normal(size=size).astype(np.float16))
    return frames


def made_examples(recipe: Recipe, llm: FrozenLLM | None, clips: int) -> list[Example]:
    """Examples of clips "0", "1" … with an emotion, dimensions and a response.

    Raises:
        ConfigError: a loss of the recipe needs questions or a teacher's predictions.
    """
    losses = active_losses(recipe.losses, recipe.heads.dimensions)
    for name in ("qa_lm", "response_kl"):
        if name in losses and recipe.losses.weights[name]:
            raise ConfigError(
                f"recipe {recipe.name!r}: losses.{name} needs rows that `rellm bench` does not "
                f"make; measure without it: --set losses.{name}=0"
            )
    emotions = recipe.heads.emotions
    response = "" if llm is None else _made_response(llm.chat)
    utterances = [
        Utterance(
            id=str(index),
            audio="",
            emotion=emotions[index % len(emotions)],
            vad=(0.25, 0.5, 0.75),
            response=response,
        )
        for index in range(clips)
    ]
    return make_examples(utterances, recipe, llm)


def _made_response(chat: ChatFormat) -> str:
    """A text of as many words as give `RESPONSE_TOKENS` tokens with the end tokens, or a few more.

    A tokenizer of bytes gives several tokens a word.
    """
    words: Sequence[str] = ("I",)
    while len(chat.ids(" ".join(words))) + len(chat.end_ids) < RESPONSE_TOKENS:
        words = (*words, "see")
    return " ".join(words)
