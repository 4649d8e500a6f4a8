"""Answers to speech. In: a model, utterances with their frames. Out: a `Generation` each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rellm_cache.corpus.manifest import DIMENSIONS, Utterance
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.reply_limit import ReplyLimit
from rellm_cache.model.speech_llm import SpeechLLM


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        id: of the utterance.
        audio: its file.
        text: its transcript, where known; a model that hears never sees it.
        response: what the LLM answers.
        early_stop: the token limit cut it; not so where the recipe's limit of sentences did.
        emotion: the category head's choice; None where the model only reads.
        emotion_probabilities: emotion → probability by the head.
        dimensions: arousal, dominance, valence by the head, or None.
    """

    id: str
    audio: str
    text: str
    response: str
    early_stop: bool
    emotion: str | None
    emotion_probabilities: dict[str, float]
    dimensions: dict[str, float] | None


def answer(model: SpeechLLM, batch: Batch, utterances: Sequence[Utterance]) -> list[Generation]:
    """Answers to the utterances of one batch, in its order."""
    recipe = model.recipe
    with torch.inference_mode():
        speech = model.speech(batch)
        logits, dimensions = model.heads(speech.embeddings, speech.lengths)
        probabilities = logits.float().softmax(1).tolist()
        limit = ReplyLimit(recipe.prompts.answer_sentences, recipe.prompts.stop_after_question)
        responses = model.answers(speech, "answer", recipe.prompts.answer_tokens, limit)
    values = [None] * len(responses) if dimensions is None else dimensions.float().tolist()
    names = recipe.heads.emotions
    return [
        Generation(
            id=utterance.id,
            audio=utterance.audio,
            text=utterance.text,
            response=response.text,
            early_stop=response.early_stop,
            emotion=names[int(np.argmax(shares))],
            emotion_probabilities=dict(zip(names, shares, strict=True)),
            dimensions=None if vad is None else dict(zip(DIMENSIONS, vad, strict=True)),
        )
        for utterance, response, shares, vad in zip(
            utterances, responses, probabilities, values, strict=True
        )
    ]


def answers(
    model: SpeechLLM,
    utterances: Sequence[Utterance],
    frames: StreamSet,
    batch_size: int,
    device: torch.device,
) -> Iterator[Generation]:
    """Answers to utterances, those of like length together: not in the utterances' order."""
    loader = BatchLoader([Example(u.id) for u in utterances], frames, device)
    plan = ordered_batches(loader.lengths, batch_size)
    for indices, batch in zip(plan, loader.batches(plan), strict=True):
        yield from answer(model, batch.to(device), [utterances[i] for i in indices])
