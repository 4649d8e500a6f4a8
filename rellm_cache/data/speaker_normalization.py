"""Speaker normalization: frames with mean 0 and deviation 1 over all clips of their speaker.

Speech recognition calls it mean and variance normalization (CMVN) by speaker; Busso et al. 2013,
"Iterative feature normalization scheme for automatic emotion detection from speech", show what it
brings to emotion recognition. What is left of a frame is how it differs from the speaker's own
average, not whose voice it is. No label is used.

The clips of a speaker are those of the same split and the same speed: a test speaker's statistics
come from the test clips, all of which must be known before the first one is recognized.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.config.schema import EncoderConfig
from rellm_cache.config.specs import EncoderSpec, StoredSpec
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.streams import FrameSource, StreamSet
from rellm_cache.errors import ConfigError, ManifestError
from rellm_cache.utils.console import counted, say_once

FEW_CLIPS = 5  # of a speaker; means of fewer tell more about the sentences than about the voice
# A channel that never changes has no deviation to divide by.
SMALLEST = 1e-5

Group = tuple[str, str, float]  # split, speaker, speed


@dataclass(frozen=True)
class SpeakerStatistics:
    """Mean of all frames of a speaker, and what they are multiplied by: (D,) float32 or (K, D)."""

    mean: Tensor
    scale: Tensor  # 1 / standard deviation

    @classmethod
    def of(cls, source: FrameSource, utterance_ids: Iterable[str]) -> "SpeakerStatistics":
        """Read the frames of a speaker's clips, one or more."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for name in utterance_ids:
            values = _values(source, name).double()
            count += len(values)
            total = total + values.sum(0)
            squares = squares + values.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        deviation[deviation < SMALLEST] = 1.0
        return cls(mean.float(), deviation.reciprocal().float())


class SpeakerNormalizedFrames:
    """Frames of another source, float16, normalized by speaker.

    Args:
        groups: utterance id → its speaker, split and speed.
        members: ids of the clips whose frames make the statistics of each.
    """

    quantization = None
    dtype = np.dtype(np.float16)

    def __init__(
        self,
        source: FrameSource,
        groups: Mapping[str, Group],
        members: Mapping[Group, Sequence[str]],
    ) -> None:
        self.spec: StoredSpec = source.spec
        self.frame_size = source.frame_size
        self.licence = source.licence
        self._source, self._groups, self._members = source, groups, members
        self._statistics: dict[Group, SpeakerStatistics] = {}
        self._digests: dict[Group, bytes] = {}

    def require(self, utterance_ids: Iterable[str], command: str, /) -> None:
        """Raise `StoreError` if an id is missing."""
        self._source.require(utterance_ids, command)

    def audio_sha256(self, utterance_id: str, /) -> bytes | None:
        """Digest of the clip's audio and of all audio of its speaker, which changes its frames."""
        audio = self._source.audio_sha256(utterance_id)
        if audio is None:
            return None
        group = self._groups[utterance_id]
        if group not in self._digests:
            found = [self._source.audio_sha256(name) or b"" for name in self._members[group]]
            self._digests[group] = hashlib.sha256(b"".join(sorted(found))).digest()
        return hashlib.sha256(audio + self._digests[group]).digest()

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """(N,) number of frames of each utterance."""
        return self._source.lengths(utterance_ids)

    def frames(self, utterance_id: str, /) -> NDArray[np.float16]:
        """(L, D) float16 frames of one utterance; of K layers (L, K, D)."""
        found = self._of(utterance_id)
        # In torch, whose conversions of float16 are ten times as fast as NumPy's.
        values = _values(self._source, utterance_id).sub_(found.mean).mul_(found.scale)
        normalized: NDArray[np.float16] = values.half().numpy()
        return normalized

    def layer_frames(self, utterance_id: str, /) -> Sequence[np.ndarray]:
        """(L, D) float16 frames of one utterance for each layer."""
        frames = self.frames(utterance_id)
        return tuple(frames.swapaxes(0, 1)) if self.spec.layer_numbers else (frames,)

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Prepare for reading these utterances, one or more, soon."""
        self._source.read_ahead(utterance_ids)

    def _of(self, utterance_id: str) -> SpeakerStatistics:
        group = self._groups[utterance_id]
        if group not in self._statistics:
            members = self._members[group]
            self._source.read_ahead(members)
            self._statistics[group] = SpeakerStatistics.of(self._source, members)
        return self._statistics[group]


def normalize_speakers(
    streams: StreamSet, encoders: Mapping[str, EncoderSpec], utterances: Sequence[Utterance]
) -> StreamSet:
    """Normalize by speaker the streams whose encoder says `speaker_normalization`, if any does.

    Args:
        utterances: all clips that will be read, with their copies at other speeds.

    Raises:
        ManifestError: a clip has no speaker.
    """
    names = normalized_streams(encoders)
    if not names:
        return streams
    groups: dict[str, Group] = {}
    members: defaultdict[Group, list[str]] = defaultdict(list)
    for one in utterances:
        if not one.speaker:
            raise ManifestError(
                f"utterance {one.id!r}: found no speaker, but the recipe normalizes the frames of "
                f"{names[0]!r} by speaker; add `speaker` to every line of the manifest, or train a "
                f"run with encoders.{names[0]}.speaker_normalization = false"
            )
        group = groups[one.id] = (one.split, one.speaker, one.speed)
        members[group].append(one.id)
    few = Counter(speaker for (_, speaker, _), ids in members.items() if len(ids) < FEW_CLIPS)
    if few:
        say_once(
            f"Warning: {counted(len(few), 'speaker has', 'speakers have')} fewer than {FEW_CLIPS} "
            f"clips, as {min(few)!r}: speaker normalization (encoders.{names[0]}."
            "speaker_normalization) removes much of what they say"
        )
    normalized = {
        name: SpeakerNormalizedFrames(source, groups, members) if name in names else source
        for name, source in streams.sources.items()
    }
    return replace(streams, sources=normalized)


def normalized_streams(encoders: Mapping[str, EncoderSpec]) -> list[str]:
    """Streams of a recipe that are normalized by speaker."""
    return [
        name
        for name, encoder in encoders.items()
        if isinstance(encoder, EncoderConfig) and encoder.speaker_normalization
    ]


def require_no_speakers(encoders: Mapping[str, EncoderSpec], what: str) -> None:
    """Raise `ConfigError` if a recipe needs all clips of a speaker, where clips come one by one.

    Args:
        what: what was asked for, as the subject of a sentence.
    """
    if names := normalized_streams(encoders):
        raise ConfigError(
            f"{what} hears clips one by one, but encoders.{names[0]}.speaker_normalization needs "
            "all clips of a speaker: give a manifest that names the speakers, in the cache by "
            "`rellm extract`, to `rellm evaluate` or `rellm embed`, or with an LLM to "
            "`rellm generate`"
        )


def _values(source: FrameSource, utterance_id: str) -> Tensor:
    """(L, D) float32 frames, or (L, K, D), in memory of their own."""
    frames = source.frames(utterance_id)
    if source.quantization is not None:
        return torch.from_numpy(source.quantization.dequantize(frames))
    return torch.from_numpy(np.array(frames)).float()
