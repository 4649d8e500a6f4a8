"""Live encoding of audio: frames of clips that are not in a cache, made when a run answers them.

Frames are rounded to float16 like stored frames, so audio and cache give the same answers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from rellm_cache.config.schema import EncoderConfig
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet, pooled_streams
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.utils.devices import forward_batch_size

GPU_BATCH = 16  # clips


class LiveEncoders:
    """The encoders of a recipe, loaded to encode audio that is not in a cache.

    Args:
        loaded: encoders of other recipes, by spec; equal ones are shared, and new ones added.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderConfig],
        device: torch.device,
        loaded: dict[EncoderSpec, FrameEncoder] | None = None,
    ) -> None:
        self._device = device
        self._pooled = pooled_streams(encoders)
        shared = {} if loaded is None else loaded
        self._encoders: dict[str, FrameEncoder] = {}
        for name, encoder in encoders.items():
            spec = resolve(encoder.spec)
            if spec not in shared:
                shared[spec] = build_encoder(spec, device)
            self._encoders[name] = shared[spec]

    def streams(self, utterances: Sequence[Utterance], limits: ClipLimits) -> StreamSet:
        """Encode the audio of utterances as `extract` does; `AudioError` if a clip is unusable.

        `limits` are those of their manifest.
        """
        return self.encode({u.id: load_clip(u, limits).waveform for u in utterances})

    def encode(self, waveforms: Mapping[str, np.ndarray]) -> StreamSet:
        """Encode 16 kHz mono waveforms (S,) float32 by utterance id."""
        ids, clips = list(waveforms), list(waveforms.values())

        def stream(encoder: FrameEncoder) -> InMemoryFrames:
            info = StoreInfo(encoder.spec, encoder.frame_size, encoder.licence)
            encoded = InMemoryFrames(info)
            size = forward_batch_size(self._device, GPU_BATCH)
            for indices in ordered_batches([len(clip) for clip in clips], size):
                encodings = encoder.encode([clips[i] for i in indices])
                for index, encoding in zip(indices, encodings, strict=True):
                    encoded.add(ids[index], encoding.frames)
            return encoded

        sources = {name: stream(encoder) for name, encoder in self._encoders.items()}
        return StreamSet(sources, pooled=self._pooled)
