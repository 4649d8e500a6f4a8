"""Served run: a trained run in memory that hears clips and replies in conversations.

Recognitions and first answers equal those of `rellm generate` on the same file.
"""

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import EncoderSpec, TranscriberSpec
from rellm_cache.config.toml import Changes
from rellm_cache.corpus.audio import Clip, decode_clip, make_waveform
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, SAMPLE_RATE, ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.speed_copies import speed_copies
from rellm_cache.data.speaker_normalization import require_no_speakers
from rellm_cache.data.streams import StreamSet
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.whisper_transcriber import WhisperTranscriber, resolve_transcriber
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.inference.generate import require_prompt_overrides
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.inference.responders import (
    Recognition,
    SpeechResponder,
    TextResponder,
    load_responder,
    reply,
)
from rellm_cache.llm.decoding import Sampling, Watch
from rellm_cache.model.conversation import Reply, Turn
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import run_recipe
from rellm_cache.serving.settings import MAX_CHANNELS
from rellm_cache.utils.devices import default_device

KEPT_CLIPS = 64  # clips whose speech embeddings stay in memory
CLIP = "clip"  # id of the clip that is heard


@dataclass(frozen=True, eq=False)
class Heard:
    """What a run heard in one clip.

    Attributes:
        transcript: by the recipe's transcriber; None without one. A speech LLM does not read it.
        recognition: by the heads; None for a run that reads text.
        states: (T', H) speech embeddings; None for a run that reads text.
    """

    seconds: float
    transcript: str | None
    recognition: Recognition | None
    states: Tensor | None


@dataclass
class LoadedParts:
    """Models that several served runs share: each is loaded once."""

    models: SharedModels = field(default_factory=SharedModels)
    encoders: dict[EncoderSpec, FrameEncoder] = field(default_factory=dict)
    transcribers: dict[TranscriberSpec, WhisperTranscriber] = field(default_factory=dict)


def read_speech(data: bytes, name: str, limits: ClipLimits) -> Clip:
    """Decode the bytes of a sound file; `name` is what messages call it.

    Raises:
        AudioError: it is empty, damaged, no sound, or of more channels than a voice has.
        UnsuitableAudioError: the limits leave it out.
    """
    if not data:
        raise AudioError(f"{name}: the file is empty (0 bytes); record it again")
    clip = decode_clip(io.BytesIO(data), Utterance(CLIP, name), limits)
    if clip.channels > MAX_CHANNELS:
        raise AudioError(
            f"{name}: found {clip.channels} channels, expected {MAX_CHANNELS} at most; export the "
            "channel of the voice, for example with `ffmpeg -i FILE -af pan=mono|c0=c0 FILE.wav`"
        )
    return clip


class ServedRun:
    """A finished run with all its models loaded.

    Args:
        run: run folder.
        name: what the page and the API call it.
        parts: models that other runs have loaded.
        overrides: changes of the recipe's prompts.

    Raises:
        RunError: `run` is not a finished run.
        ConfigError: a model is missing, something else than a prompt is changed, or the run reads
            text and has nothing that turns speech into text.
    """

    def __init__(self, run: Path, name: str, parts: LoadedParts, overrides: Changes = ()) -> None:
        self.path, self.name = run, name
        self.recipe = run_recipe(run, require_prompt_overrides(overrides))
        _require_hearing(self.recipe, run)
        require_no_speakers(self.recipe.encoders, f"{run}: rellm serve")
        device = default_device()
        self._encoders: LiveEncoders | None = None
        if self.recipe.text is None:
            self._encoders = LiveEncoders(self.recipe.encoders, device, parts.encoders)
        self._waveforms: dict[str, np.ndarray] = {}
        self._responder = load_responder(
            run, self.recipe, Path(), self._load_streams, parts.models, overrides
        )
        self._transcriber: WhisperTranscriber | None = None
        if self.recipe.transcriber is not None:
            spec = resolve_transcriber(self.recipe.transcriber)
            if spec not in parts.transcribers:
                parts.transcribers[spec] = WhisperTranscriber(spec, device)
            self._transcriber = parts.transcribers[spec]
        self._heard: OrderedDict[bytes, Heard] = OrderedDict()

    @property
    def answers(self) -> bool:
        """Whether the run has an LLM, which answers."""
        return self._responder.llm is not None

    @property
    def transcribes(self) -> bool:
        """Whether the recipe has a transcriber."""
        return self._transcriber is not None

    def hear(self, clip: Clip) -> Heard:
        """Recognition, speech embeddings and transcript of a clip; kept for the next turns."""
        key = clip.digest.tobytes()
        if key in self._heard:
            self._heard.move_to_end(key)
            return self._heard[key]
        transcript = None
        if self._transcriber is not None:
            (found,) = self._transcriber.transcribe([clip.waveform])
            transcript = found.text
        recognition = states = None
        if isinstance(self._responder, SpeechResponder):
            recognition, states = self._recognize(clip, self._responder)
        self._heard[key] = Heard(clip.seconds, transcript, recognition, states)
        while len(self._heard) > KEPT_CLIPS:
            self._heard.popitem(last=False)
        return self._heard[key]

    def spoken_turn(self, heard: Heard, question: str = "") -> Turn:
        """The user's turn with a clip, and with a question about it if there is one."""
        if isinstance(self._responder, TextResponder):
            return self._responder.spoken_turn(heard.transcript or "", question)
        if heard.states is None:
            raise ConfigError(f"{self.name}: the clip was heard by a run that reads text")
        return self._responder.spoken_turn(heard.states, question)

    def reply(
        self,
        turns: Sequence[Turn],
        system: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        watch: Watch | None = None,
    ) -> Reply:
        """The next turn of a conversation: see `responders.reply`."""
        return reply(
            self._responder, self.recipe.prompts, turns, system, max_new_tokens, sampling, watch
        )

    def _recognize(self, clip: Clip, responder: SpeechResponder) -> tuple[Recognition, Tensor]:
        """Recognition, averaged over the recipe's speeds, and states (T', H) of a clip."""
        spoken = Utterance(CLIP, "", duration=clip.seconds)
        speeds = self.recipe.heads.speed_copies
        copies = [copy for _, copy in speed_copies([spoken], speeds, DEFAULT_LIMITS)]
        self._waveforms = {CLIP: clip.waveform} | {
            copy.id: make_waveform(clip.waveform[:, None], SAMPLE_RATE * copy.speed, CLIP)
            for copy in copies
        }
        return responder.hear(spoken, copies)

    def _load_streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        if self._encoders is None:
            raise ConfigError(f"{self.name}: reads text and has no encoders")
        return self._encoders.encode({u.id: self._waveforms[u.id] for u in utterances})


def _require_hearing(recipe: Recipe, run: Path) -> None:
    """Raise `ConfigError` if a run that reads text cannot get a text from speech."""
    if recipe.text is None:
        return
    if recipe.text.gold_emotion:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} gives the LLM the true emotion (text.gold_emotion), "
            "which nobody knows of live speech; serve a run without it"
        )
    if recipe.transcriber is None:
        raise ConfigError(
            f"{run}: recipe {recipe.name!r} reads transcripts and has no [transcriber], so it "
            'cannot hear; make the run with --set text.transcript="whisper" and --set '
            "transcriber.model=openai/whisper-tiny.en"
        )
