"""Live encoding of audio: frames of clips that are not in a cache, made when a run answers them.

Frames are rounded to float16 like stored frames, so audio and cache give the same answers.
"""

from collections.abc import Sequence

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.sampler import ordered_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.utils.devices import forward_batch_size

GPU_BATCH = 16  # clips


class LiveEncoders:
    """The encoders of a recipe, loaded to encode audio that is not in a cache."""

    def __init__(self, recipe: Recipe, device: torch.device, limits: ClipLimits) -> None:
        self._device = device
        self._limits = limits
        self._encoders = {
            name: build_encoder(resolve(encoder.spec), device)
            for name, encoder in recipe.encoders.items()
        }

    def streams(self, utterances: Sequence[Utterance]) -> StreamSet:
        """Encode the audio of utterances as `extract` does; `AudioError` if a clip is unusable."""
        waveforms = [load_clip(u, self._limits).waveform for u in utterances]

        def stream(encoder: FrameEncoder) -> InMemoryFrames:
            info = StoreInfo(encoder.spec, encoder.frame_size, encoder.licence)
            encoded = InMemoryFrames(info)
            size = forward_batch_size(self._device, GPU_BATCH)
            for indices in ordered_batches([len(w) for w in waveforms], size):
                encodings = encoder.encode([waveforms[i] for i in indices])
                for index, encoding in zip(indices, encodings, strict=True):
                    encoded.add(utterances[index].id, encoding.frames)
            return encoded

        return StreamSet({name: stream(encoder) for name, encoder in self._encoders.items()})
