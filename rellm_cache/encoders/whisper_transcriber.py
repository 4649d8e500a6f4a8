"""Whisper transcriber: texts of clips by greedy decoding, without timestamps.

A clip is padded to 30 s as in Whisper's training. A multilingual model gets the spec's language and
the task to transcribe; an English-only model gets neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperTokenizer

from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.encoders.whisper import WhisperEncoder, check_samples, load_features
from rellm_cache.errors import ConfigError
from rellm_cache.utils.model_files import find_model, load_pretrained, model_errors, pinned_digest

TEXT_FILES = ("generation_config.json", "tokenizer.json")
NEEDED = ("preprocessor_config.json", *TEXT_FILES)
# Settings of `generation_config.json` that belong to the model: its tokens, and those that its
# published decoder leaves out. All others would steer greedy decoding.
OWN_SETTINGS = (
    "alignment_heads", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id",
    "eos_token_id", "forced_decoder_ids", "is_multilingual", "lang_to_id", "max_length",
    "no_timestamps_token_id", "pad_token_id", "prev_sot_token_id", "suppress_tokens", "task_to_id",
)  # fmt: skip
PROMPT_TOKENS = 4  # maximum: start, language, task, no timestamps


@dataclass(frozen=True)
class Transcription:
    """The text of a clip."""

    text: str  # without outer spaces; may be empty, for example for silence
    cut: bool  # whether the token limit cut the text


def resolve_transcriber(spec: TranscriberSpec) -> TranscriberSpec:
    """Add the digest of the weights to a spec, without loading the model.

    Raises:
        ConfigError: the model cannot be found or lacks a file, or the spec pins other weights.
    """
    folder = find_model(spec.model, NEEDED)
    return replace(spec, weights_sha256=pinned_digest(folder, spec.weights_sha256, TEXT_FILES))


class WhisperTranscriber:
    """A frozen Whisper, in half precision on a GPU.

    Attributes:
        spec: identity of its texts.
        licence: license of the model.
    """

    licence = WhisperEncoder.licence

    def __init__(self, spec: TranscriberSpec, device: torch.device) -> None:
        """Load the model; `ConfigError` if a part is missing or the spec does not fit the model."""
        folder = find_model(spec.model, NEEDED)
        self.spec = spec
        self._features = load_features(folder)
        with model_errors(folder):
            self._tokenizer = WhisperTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = load_pretrained(
            WhisperForConditionalGeneration,
            folder,
            "use a Whisper checkpoint with its decoder, in the layout of transformers",
            dtype=torch.float16 if device.type == "cuda" else torch.float32,
            attn_implementation="sdpa",
        )
        room = model.config.max_target_positions - PROMPT_TOKENS
        if spec.max_tokens > room:
            raise ConfigError(
                f"transcriber.max_tokens = {spec.max_tokens}: {folder} has room for {room}"
            )
        self._language_options = _language_options(spec, model.generation_config, str(folder))
        own = {name: getattr(model.generation_config, name, None) for name in OWN_SETTINGS}
        model.generation_config = GenerationConfig(
            **{name: value for name, value in own.items() if value is not None}
        )
        self._ends = {model.generation_config.eos_token_id, model.generation_config.pad_token_id}
        self._model = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcription]:
        """Transcribe waveforms (S,) float32, 16 kHz; `AudioError` above 30 s."""
        check_samples(waveforms)
        mel = self._features(
            list(waveforms), sampling_rate=16_000, return_tensors="pt", padding="max_length"
        ).input_features  # (B, mels, 3000)
        rows = self._model.generate(
            mel.to(self._model.device, self._model.dtype),
            max_new_tokens=self.spec.max_tokens,
            num_beams=1,
            do_sample=False,
            return_timestamps=False,
            **self._language_options,
        )  # (B, longest), without the prompt
        return [self._read(row) for row in rows.tolist()]

    def _read(self, row: list[int]) -> Transcription:
        tokens = [token for token in row if token not in self._ends]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Transcription(text.strip(), len(tokens) >= self.spec.max_tokens)


def _language_options(spec: TranscriberSpec, generation: Any, folder: str) -> dict[str, str]:
    """Language and task as options of `generate`; none for an English-only model."""
    multilingual = getattr(generation, "is_multilingual", None)
    if multilingual is None:
        raise ConfigError(
            f"{folder}/generation_config.json: found no 'is_multilingual', which says whether the "
            "model takes a language; copy the file that the hub has for this model"
        )
    known = ["en"]
    if multilingual:
        known = sorted(token.strip("<|>") for token in getattr(generation, "lang_to_id", {}))
    if spec.language not in known:
        raise ConfigError(
            f"transcriber.language = {spec.language!r}: {folder} knows {', '.join(known)}"
        )
    return {"language": spec.language, "task": "transcribe"} if multilingual else {}
