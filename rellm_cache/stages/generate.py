"""generate. In: a run and utterances, cached or as audio. Out: spoken words answered in text.

From the cache and from audio the numbers are the same: live frames are rounded to float16 as
stored ones are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rellm_cache.batches import Batch, Example, Frames, ordered_batches
from rellm_cache.config import Recipe
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import DIMENSIONS, Utterance, read_manifests, write_lines
from rellm_cache.devices import clips_at_a_time, default_device
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.journal import Journal, read_journal
from rellm_cache.llm.reply_limit import ReplyLimit
from rellm_cache.loading.loader import BatchLoader
from rellm_cache.model.checkpoint import WEIGHTS, load_run
from rellm_cache.model.speech_llm import SpeechLLM, require_llm
from rellm_cache.progress import progress
from rellm_cache.specs import digest
from rellm_cache.stages.data import open_frames, require_frames
from rellm_cache.store.memory import EncodedFrames

ENCODED_TOGETHER = 16  # clips, on a GPU
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        id: of the utterance.
        audio: its file.
        text: its transcript, where known; the model never sees it.
        response: what the LLM answers to the speech.
        early_stop: the token limit cut it; not so where the recipe's limit of sentences did.
        emotion: the category head's choice.
        emotion_probabilities: emotion → probability by the head.
        dimensions: arousal, dominance, valence by the head, or None.
    """

    id: str
    audio: str
    text: str
    response: str
    early_stop: bool
    emotion: str
    emotion_probabilities: dict[str, float]
    dimensions: dict[str, float] | None


def read_source(source: Path) -> list[Utterance]:
    """Utterances of a manifest file or folder, or one sound file as an utterance."""
    if source.suffix.lower() in AUDIO_SUFFIXES:
        return [Utterance(id=source.stem, audio=str(source.resolve()))]
    return read_manifests(source)


class LiveEncoders:
    """A recipe's encoders in memory, for audio that is in no cache."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        specs = recipe.encoders
        self._device = device
        self._speech = build_encoder(resolve(specs.speech), device)
        self._emotion = build_encoder(resolve(specs.emotion), device) if specs.emotion else None

    def frames(self, utterances: Sequence[Utterance]) -> Frames:
        """Encode utterances from their audio with the encoders that `extract` runs.

        Raises:
            AudioError: a clip cannot be used.
        """
        waveforms = [load_clip(u).waveform for u in utterances]

        def stream(encoder: FrameEncoder) -> EncodedFrames:
            encoded = EncodedFrames(encoder.frame_size)
            size = clips_at_a_time(self._device, ENCODED_TOGETHER)
            for indices in ordered_batches([len(w) for w in waveforms], size):
                encodings = encoder.encode([waveforms[i] for i in indices])
                for index, encoding in zip(indices, encodings, strict=True):
                    encoded.add(utterances[index].id, encoding.frames)
            return encoded

        return Frames(stream(self._speech), stream(self._emotion) if self._emotion else None)


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


def generate(
    run: Path,
    source: Path,
    out: Path,
    cache: Path,
    from_audio: bool = False,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
) -> list[Generation]:
    """Answer every utterance of a manifest or one sound file; write JSON Lines to `out`.

    A killed call goes on where it was. Sound files given as such are always encoded live.

    Args:
        overrides: changes of the recipe's prompts, as `prompts.answer_sentences=2`.

    Raises:
        RunError: `run` is not a finished run.
        ConfigError: it has no LLM, or an override is of something else than prompts.
        StoreError: clips are absent from the cache.
    """
    device = default_device()
    utterances = read_source(source)
    recipe, model = load_run(run, device, overrides=prompts_alone(overrides))
    require_llm(model.llm)
    partial = out.with_name(f".{out.name}.partial")
    identity = _identity(run, source, recipe)
    done = {r["id"]: r["generation"] for r in read_journal(partial) if r["by"] == identity}
    left = [u for u in utterances if u.id not in done]
    live = from_audio or source.suffix.lower() in AUDIO_SUFFIXES
    frames = LiveEncoders(recipe, device).frames(left) if live else open_frames(recipe, cache)
    try:
        require_frames(
            frames, [u.id for u in left], f"rellm extract {source} --recipe {run}/recipe.toml"
        )
    except StoreError as error:
        raise StoreError(f"{error}, or encode live with --from-audio") from error
    with progress("Answering", len(left), "clips") as tick, Journal(partial) as journal:
        for generation in answers(model, left, frames, batch_size, device):
            done[generation.id] = asdict(generation)
            journal.append({"by": identity, "id": generation.id, "generation": done[generation.id]})
            tick()
    generations = [Generation(**done[u.id]) for u in utterances]
    write_lines(out, (asdict(g) for g in generations))
    partial.unlink(missing_ok=True)
    return generations


def answers(
    model: SpeechLLM,
    utterances: Sequence[Utterance],
    frames: Frames,
    batch_size: int,
    device: torch.device,
) -> Iterator[Generation]:
    """Answers to utterances, those of like length together: not in the utterances' order."""
    loader = BatchLoader([Example(u.id) for u in utterances], frames, device)
    plan = ordered_batches(loader.lengths, batch_size)
    for indices, batch in zip(plan, loader.batches(plan), strict=True):
        yield from answer(model, batch.to(device), [utterances[i] for i in indices])


def prompts_alone(overrides: Sequence[str]) -> Sequence[str]:
    """The overrides, as long as a trained run can follow them; `ConfigError` otherwise."""
    for override in overrides:
        if not override.strip().startswith("prompts."):
            raise ConfigError(
                f"--set {override!r}: the run is trained; only prompts.* can change now"
            )
    return overrides


def _identity(run: Path, source: Path, recipe: Recipe) -> str:
    """Whose answers a partial file may hold: those of these weights and prompts to this source."""
    weights = (run / WEIGHTS).stat()
    places = [str(run.resolve()), str(source.resolve())]
    return digest([*places, weights.st_mtime_ns, weights.st_size, asdict(recipe.prompts)])
