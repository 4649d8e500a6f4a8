"""Trained run in memory: it answers, recognizes and embeds sound files, waveforms and cached clips.

The results equal those of `rellm generate` and `rellm evaluate`. The LLM is loaded for the first
answer; nothing else needs it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.toml import Changes
from rellm_cache.corpus.audio import MAX_RATE, MIN_RATE, load_clip, make_waveform
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, SAMPLE_RATE
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.speed_copies import speed_copies
from rellm_cache.data.speaker_normalization import require_no_speakers
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import AudioError, ConfigError, ManifestError, RunError, StoreError
from rellm_cache.inference.generate import AUDIO_SUFFIXES, require_prompt_overrides
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.inference.responders import (
    Recognition,
    SpeechResponder,
    TextResponder,
    load_responder,
)
from rellm_cache.runs.provenance import run_cache
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import run_recipe
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.near_names import did_you_mean

BATCH = 8  # clips
LOUDEST = 8.0  # a waveform of larger values was not scaled to -1..1

Speech = str | Path | np.ndarray | Utterance
Item = TypeVar("Item", bound=Speech)
Clips = list[Item] | tuple[Item, ...]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """Answer of a run to one clip.

    Attributes:
        text: the answer.
        early_stop: whether the token limit cut it (not the recipe's sentence limit).
        emotion, probabilities, dimensions: as in `Recognition`; empty for a run that reads text.

    Example:
        >>> import rellm_cache as rellm
        >>> isinstance(rellm.load_run("runs/small").answer("speech.wav"), rellm.Answer)
        True
    """

    text: str
    early_stop: bool
    emotion: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    dimensions: dict[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors of one clip.

    Attributes:
        states: (T', H) float32 outputs of the adapter, which the LLM reads as tokens.
        pooled: (P,) float32, what the heads read: the mean of the states over time, or of their
            projection (`heads.projection`), followed by the standard deviation if `heads.pooling`
            is `"statistics"` or `"attentive_statistics"`.

    Example:
        >>> import rellm_cache as rellm
        >>> embedding: rellm.Embedding = rellm.load_run("runs/heads").embed("speech.wav")
        >>> embedding.pooled.shape[0] == 2 * embedding.states.shape[1]
        True
    """

    states: NDArray[np.float32]
    pooled: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _LiveClip(Utterance):
    """A clip that is encoded now.

    Attributes:
        decode: gives its waveform at a speed, (S,) float32 at 16 kHz.
    """

    decode: Callable[[float], np.ndarray] = lambda _: np.zeros(0, np.float32)

    @cached_property
    def waveform(self) -> np.ndarray:
        """The waveform at the clip's own speed."""
        return self.decode(self.speed)


class Run:
    """A finished run, loaded to answer clips one by one or in lists.

    `x` of its methods is one clip or a list of clips; for a list, a list comes back. A clip is

    - a sound file: its path (WAV, FLAC, OGG, MP3; 1 to 30 s),
    - a waveform: (S,) float numbers in -1..1, or (S, channels), which are averaged; `sampling_rate`
      is in Hz, and other rates than 16000 are resampled,
    - the id of an utterance in the run's cache, which needs no audio, or
    - an `Utterance` of a manifest, whose audio is encoded. A run that reads text takes no other.

    Args:
        path: the run folder.
        cache: root of the stores for ids; None for the cache that the run was trained from.
        overrides: changes of the recipe's prompts.

    Attributes:
        recipe: the run's recipe.

    Raises:
        RunError: `path` is not a finished run.
        ConfigError: another field than a prompt is changed, the run has no LLM to answer with, it
            reads text and is asked for what only speech gives, or its recipe normalizes frames by
            speaker.
        AudioError: a file or waveform is not usable: not audio, empty, not finite, too short or
            long, or integers.
        StoreError: an id is not in the cache.

    Example:
        >>> import rellm_cache as rellm
        >>> run = rellm.load_run("runs/small")
        >>> type(run.answer("speech.wav").text)
        <class 'str'>
        >>> [one, other] = run.embed(["speech.wav", "demo/sam-sad-1"])
        >>> one.states.shape[1] == other.states.shape[1]
        True
    """

    def __init__(self, path: Path, cache: Path | None = None, overrides: Changes = ()) -> None:
        self.path, self._cache = path, cache
        self.recipe = run_recipe(path, require_prompt_overrides(overrides))
        require_no_speakers(self.recipe.encoders, f"{path}: a run in memory")
        self._resources = SharedModels()
        self._overrides, self._lacks_llm = overrides, self.recipe.used_llm is not None
        self._responder: SpeechResponder | TextResponder
        if self.recipe.text is None:
            self._responder = SpeechResponder(path, None, self._load_streams)
        else:
            self._load_llm()

    @overload
    def answer(
        self, x: Speech, *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> Answer: ...
    @overload
    def answer(
        self, x: Clips[Item], *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> list[Answer]: ...
    def answer(self, x: Any, *, sampling_rate: int = 16_000, batch_size: int = BATCH) -> Any:
        """Answer clips with the LLM, greedily, with the prompt `answer`; it is loaded once."""
        if self._lacks_llm:
            self._load_llm()

        def answers(clips: list[Utterance]) -> dict[str, Answer]:
            return {
                g.id: Answer(
                    g.response, g.early_stop, g.emotion, g.emotion_probabilities, g.dimensions
                )
                for g in self._responder.answers(clips, batch_size)
            }

        return self._for_each(x, sampling_rate, answers)

    @overload
    def recognise(
        self, x: Speech, *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> Recognition: ...
    @overload
    def recognise(
        self, x: Clips[Item], *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> list[Recognition]: ...
    def recognise(self, x: Any, *, sampling_rate: int = 16_000, batch_size: int = BATCH) -> Any:
        """Emotion, its probabilities and dimensions of clips, by the heads; no LLM is used."""
        responder = self._speech_responder

        def recognitions(clips: list[Utterance]) -> dict[str, Recognition]:
            found = responder.recognize(clips, batch_size, self._copies(clips))
            return {clip.id: one for clip, one in zip(clips, found, strict=True)}

        return self._for_each(x, sampling_rate, recognitions)

    @overload
    def embed(
        self, x: Speech, *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> Embedding: ...
    @overload
    def embed(
        self, x: Clips[Item], *, sampling_rate: int = 16_000, batch_size: int = BATCH
    ) -> list[Embedding]: ...
    def embed(self, x: Any, *, sampling_rate: int = 16_000, batch_size: int = BATCH) -> Any:
        """States of the adapter and pooled vectors of clips, as NumPy arrays."""
        responder = self._speech_responder

        def embeddings(clips: list[Utterance]) -> dict[str, Embedding]:
            found = responder.embed(clips, batch_size)
            return {n: Embedding(s.numpy(), p.numpy()) for n, (s, p) in found.items()}

        return self._for_each(x, sampling_rate, embeddings)

    def _load_llm(self) -> None:
        """Load the run with its LLM."""
        cache = (self._cache or run_cache(self.path)) if self.recipe.text else Path()
        self._responder = load_responder(
            self.path, self.recipe, cache, self._load_streams, self._resources, self._overrides
        )
        self._lacks_llm = False

    @property
    def _speech_responder(self) -> SpeechResponder:
        if isinstance(self._responder, TextResponder):
            raise ConfigError(
                f"{self.path}: recipe {self.recipe.name!r} reads text: it has no adapter and no "
                "heads; use a run that was trained on speech"
            )
        return self._responder

    @cached_property
    def _encoders(self) -> LiveEncoders:
        return LiveEncoders(self.recipe.encoders, default_device())

    def _for_each(
        self,
        x: Any,
        rate: int,
        work: Callable[[list[Utterance]], dict[str, Result]],
    ) -> Result | list[Result]:
        """Results of `work` for each clip of `x`; encoded and cached clips are batched apart."""
        several = isinstance(x, list | tuple)
        clips = [self._clip(c, rate, i) for i, c in enumerate(x if several else [x])]
        found: dict[tuple[bool, str], Result] = {}
        for live in (True, False):
            group = {c.id: c for c in clips if isinstance(c, _LiveClip) == live}
            if group:
                found |= {(live, n): r for n, r in work(list(group.values())).items()}
        results = [found[isinstance(c, _LiveClip), c.id] for c in clips]
        return results if several else results[0]

    def _clip(self, clip: object, rate: int, index: int) -> Utterance:
        """The utterance of an item of a list; what is encoded gets its index as id."""
        if self.recipe.text is not None:
            if not isinstance(clip, Utterance):
                raise ManifestError(
                    f"{self.path}: recipe {self.recipe.name!r} reads text; found "
                    f"{type(clip).__name__}, expected an Utterance with its text, as "
                    "rellm.Utterance('one', 'one.wav', text='I lost my keys.')"
                )
            return clip
        if isinstance(clip, str) and not os.path.isfile(clip):  # as of any text, without errors
            return Utterance(clip, "")
        if isinstance(clip, str | Path):
            clip = Utterance("", str(clip))
        if isinstance(clip, Utterance):
            heard = clip
            return _LiveClip(
                f"{index}",
                heard.audio,
                decode=lambda speed: load_clip(replace(heard, speed=heard.speed * speed)).waveform,
            )
        array = _samples(clip, rate, f"waveform {index}")
        return _LiveClip(
            f"{index}",
            "",
            decode=lambda speed: make_waveform(array, rate * speed, f"waveform {index}"),
        )

    def _copies(self, clips: list[Utterance]) -> list[tuple[int, Utterance]]:
        """Copies at the recipe's speeds, each with the place of its clip."""
        speeds = self.recipe.heads.speed_copies
        if not speeds:
            return []
        cached = [clip for clip in clips if not isinstance(clip, _LiveClip)]
        streams = self._load_streams(cached) if cached else None
        timed = []
        for clip in clips:
            if isinstance(clip, _LiveClip):
                seconds = len(clip.waveform) / SAMPLE_RATE
            elif streams is not None:
                frames = int(streams.lengths([clip.id])[0])
                seconds = frames / streams.base.spec.frame_rate
            timed.append(replace(clip, duration=seconds))
        return speed_copies(timed, speeds, DEFAULT_LIMITS)

    def _load_streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        """Frames of clips that are all encoded now, or all in the cache."""
        live = {u.id: u.waveform for u in utterances if isinstance(u, _LiveClip)}
        if live:
            return self._encoders.encode(live)
        ids = [u.id for u in utterances]
        try:
            cache = self._cache or run_cache(self.path)
            streams = self._resources.streams(self.recipe.encoders, cache)
            streams.require(ids, f"rellm extract MANIFEST --recipe {self.path}/recipe.toml")
        except (StoreError, RunError) as error:
            for name in ids:
                if Path(name).suffix.lower() in AUDIO_SUFFIXES:
                    near = did_you_mean(Path(name)) or "; check its path"
                    raise AudioError(
                        f"{name}: no such sound file, and no id of the cache{near}"
                    ) from error
            raise StoreError(f"{ids[0]!r}: no sound file has this path, and {error}") from error
        return streams


def _samples(samples: Any, rate: int, name: str) -> NDArray[np.float32]:
    """(S, channels) float32, or `AudioError`, from an array (S,) or (S, channels)."""
    if not hasattr(samples, "__array__"):
        raise AudioError(
            f"{name}: found {type(samples).__name__}, expected the path of a sound file, an array, "
            "an utterance id or an Utterance"
        )
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        raise AudioError(
            f"{name}: found {array.dtype} samples, expected float32 in -1..1; divide 16-bit "
            "integers by 32768"
        )
    array = array[:, None] if array.ndim == 1 else array  # (S,) -> (S, 1)
    if array.ndim != 2 or not 1 <= array.shape[1] <= max(1, len(array)):
        raise AudioError(
            f"{name}: found shape {array.shape}, expected (samples,) or (samples, channels); "
            "transpose an array of (channels, samples), and give several clips as a list"
        )
    if not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        expected = f"expected {MIN_RATE} to {MAX_RATE} Hz"
        raise AudioError(f"{name}: sampling_rate = {rate!r}: {expected}")
    if (loudest := float(np.abs(array).max(initial=0.0))) > LOUDEST:  # not if NaN
        raise AudioError(
            f"{name}: found values up to {loudest:g}, expected -1..1; divide 16-bit integers by "
            "32768"
        )
    return array.astype(np.float32)
