"""Memory and operation counts of a training run, estimated from its recipe.

No weights are loaded and nothing trains: the LLM's size follows from its config (`llm.memory`);
adapter and heads run forward without data. The count includes the tensors at the peak of a step on
the device. It excludes a GPU's own context, `CONTEXT_BYTES`, and on a CPU the freed blocks that the
C library keeps (docs/benchmarks.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from rellm_cache.config.schema import (
    LLMConfig,
    LossesConfig,
    Recipe,
    TrainingConfig,
)
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.examples import Questions
from rellm_cache.llm.memory import Footprint, estimate_footprint
from rellm_cache.llm.teacher_distribution import CHUNK
from rellm_cache.llm.unpacked_weights import unpacked_bytes
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.model.layer_mix import LayerMixes
from rellm_cache.model.registry import build_adapter
from rellm_cache.qa.rows import QARow
from rellm_cache.utils.devices import GPU_SHARE

WORDS_TO_TOKENS = 1.4  # English in a chat model's vocabulary, end tokens included
PROMPT_TOKENS = 40  # before the speech, for each task; a tenth of that follows the speech
LABEL_TOKENS = 3  # in an answer that names an emotion
CONTEXT_BYTES = 500_000_000  # GPU memory that CUDA itself uses
MOMENTS_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}
GRADIENT_BYTES = {"fp32": 4, "int8": 1}


@dataclass(frozen=True)
class TrainingPlan:
    """Memory on a device, and operations of an epoch.

    Attributes:
        llm_bytes: frozen weights of the LLM on the device; 0 without one.
        host_bytes: weights of the LLM in host memory.
        trained: number of trained parameters.
        trained_bytes: trained weights with gradients, moments, master weights and average.
        tokens: number of tokens in a micro-batch.
        step_bytes: activations and temporary tensors of such a micro-batch.
        operations: number in an epoch. For each token and LLM weight: two forward and two backward;
            for each frame and each adapter weight applied to it: six.
    """

    llm_bytes: int
    host_bytes: int
    trained: int
    trained_bytes: int
    tokens: int
    step_bytes: int
    operations: float

    @property
    def peak_bytes(self) -> int:
        """Peak memory on the device, without its context."""
        return self.llm_bytes + self.trained_bytes + self.step_bytes

    def fits(self, gpu_bytes: int) -> bool:
        """Whether the peak and CUDA's context fit into a GPU with this memory."""
        return self.peak_bytes + CONTEXT_BYTES <= gpu_bytes


class _ClipTokens(NamedTuple):  # made for each clip of a corpus, which may have a million
    """Token counts of one clip in packed rows, without the prompts that clips share."""

    speech: int  # embeddings from the adapter
    answers: int  # tokens with a loss
    total: int  # speech, questions, answers, and the prompt tokens between them
    seen: int  # prompt and speech tokens before each segment, counted once a segment


def plan_training(
    recipe: Recipe,
    clips: Sequence[Utterance],
    seconds: dict[str, float],
    sizes: Mapping[str, int],
    dtype: torch.dtype,
    gpu_bytes: int | None = None,
    questions: Questions = MappingProxyType({}),
    frame_rate: float = 50.0,
) -> TrainingPlan:
    """Count the memory and operations of training a recipe.

    Args:
        clips: utterances of the train split.
        seconds: clip id → duration; clips without a duration are left out.
        sizes: values in a stored frame of each stream.
        dtype: compute dtype of the LLM.
        gpu_bytes: memory of the GPU. With `training.micro_batch_tokens = "auto"` the micro-batch
            is as large as `train` would choose on that GPU: it leaves CUDA's context and a tenth
            of the rest free.
        questions: clip id → questions used in training.
        frame_rate: frames a second of the first stream.

    Raises:
        ConfigError: the LLM's config cannot be found.
    """
    llm = estimate_footprint(recipe.used_llm, dtype) if recipe.used_llm else None
    output_size = llm.hidden_size if llm else recipe.adapter.output_size
    with torch.device("meta"):
        mixes = LayerMixes(recipe.adapter, recipe.encoders, sizes)
        adapter = build_adapter(recipe.adapter, sum(mixes.sizes.values()), output_size)
        heads = AuxiliaryHeads(recipe.heads, adapter.output_size)
    cost = adapter.cost()
    parts = [p for part in (mixes, heads) for p in part.parameters() if p.requires_grad]
    parameters = cost.parameters + sum(p.numel() for p in parts)
    parameters += llm.lora_parameters if llm else 0
    trained_bytes = parameters * _bytes_a_parameter(recipe.training)
    clips = [clip for clip in clips if clip.id in seconds]
    found = [round(seconds[clip.id] * frame_rate) for clip in clips]
    lengths = torch.tensor(found, dtype=torch.long, device="cpu").clamp(min=1)
    frames = int(adapter.input_lengths(lengths).sum())  # in training mode
    embeddings = adapter.output_lengths(lengths)
    kept = (mixes.kept_bytes + cost.kept_bytes) * frames + heads.kept_bytes() * int(
        embeddings.sum()
    )
    tasks = recipe.losses.tasks
    tokens = [
        _count_tokens(tasks, clip, speech, questions.get(clip.id, ()))
        for clip, speech in zip(clips, embeddings.tolist(), strict=True)
    ]
    total = sum(clip.total for clip in tokens)
    micro_batch = _micro_batch_tokens(recipe.training, recipe.llm, [clip.total for clip in tokens])
    token_bytes = kept / max(total, 1)
    temporary = 0.0
    if llm and recipe.llm:
        row = max(1, min(recipe.llm.pack_length, micro_batch))
        row_bytes, temporary = _row_bytes(recipe.llm, recipe.losses, llm, tokens, row)
        token_bytes += row_bytes
    if recipe.training.micro_batch_tokens == "auto" and gpu_bytes is not None:
        fixed = CONTEXT_BYTES + (llm.device_bytes if llm else 0) + trained_bytes
        left = GPU_SHARE * (gpu_bytes - fixed)
        micro_batch = max(micro_batch, int((left - temporary) / max(token_bytes, 1)))
    operations = frames * (cost.operations + mixes.operations)
    llm_bytes = 0
    if llm and recipe.llm:
        operations += total * 4 * llm.linear_parameters
        llm_bytes = llm.device_bytes
        on_cpu, in_bf16 = dtype == torch.float32, recipe.llm.cpu_precision == "bf16"
        if on_cpu and in_bf16 and not recipe.llm.quantize_output:
            llm_bytes += 2 * llm.vocabulary * llm.hidden_size  # the output matrix for answers
        if recipe.llm.quantization == "nf4" and on_cpu:
            llm_bytes += unpacked_bytes(llm.linear_parameters, 2 if in_bf16 else 4)
    return TrainingPlan(
        llm_bytes=llm_bytes,
        host_bytes=llm.host_bytes if llm else 0,
        trained=parameters,
        trained_bytes=trained_bytes,
        tokens=micro_batch,
        step_bytes=int(micro_batch * token_bytes + temporary),
        operations=operations,
    )


def _bytes_a_parameter(config: TrainingConfig) -> int:
    """Weight, gradient and moments of a trained parameter, with master weight and average."""
    weight = 6 if config.param_dtype == "bf16" else 4
    average = 4 if config.weight_averaging else 0
    gradient = GRADIENT_BYTES[config.gradient_dtype]
    return weight + gradient + MOMENTS_BYTES[config.optimizer] + average


def _count_tokens(
    tasks: set[str], clip: Utterance, speech: int, questions: Sequence[QARow]
) -> _ClipTokens:
    """Tokens of one clip. Each answer repeats its `speech` embeddings; all questions share them."""
    answers = []
    if "response_lm" in tasks:
        answers.append(_text_tokens(clip.response or ""))
    if "emotion_lm" in tasks and clip.emotion:
        answers.append(LABEL_TOKENS)
    prompts = len(answers) + bool(questions)
    all_speech = speech * max(1, prompts)
    answers += [_text_tokens(row.answer) for row in questions]
    asked = sum(_text_tokens(row.question) for row in questions)
    total = all_speech + asked + sum(answers) + len(answers) * PROMPT_TOKENS // 10
    seen = (prompts + len(questions)) * PROMPT_TOKENS + len(questions) * speech
    return _ClipTokens(all_speech, sum(answers), total, seen)


def _text_tokens(text: str) -> int:
    return int(len(text.split()) * WORDS_TO_TOKENS)


def _micro_batch_tokens(
    config: TrainingConfig, llm: LLMConfig | None, totals: Sequence[int]
) -> int:
    """Tokens of a micro-batch, given the tokens of each clip; "auto" starts with one row."""
    if config.micro_batch_tokens == "auto":
        return llm.pack_length if llm else sum(totals[: config.batch_size])
    return config.micro_batch_tokens or sum(sorted(totals)[-config.batch_size :])


def _row_bytes(
    config: LLMConfig,
    losses: LossesConfig,
    llm: Footprint,
    tokens: Sequence[_ClipTokens],
    row: int,
) -> tuple[float, float]:
    """Memory of full rows.

    The attention mask of a row is counted. Masks of segments are far smaller and are ignored.

    Args:
        row: tokens of clips in a row, without the prompts before them.

    Returns:
        Bytes kept for each of these tokens, and bytes of temporary tensors, one row at a time.
    """
    tasks = len(losses.tasks)
    prompts = tasks * PROMPT_TOKENS  # in the row, or as cached keys and values
    length = row if config.caches_prefix_kv else row + prompts
    total = max(sum(clip.total for clip in tokens), 1)
    lora_share = 1.0  # share of tokens with LoRA
    if config.lora and config.lora.scope == "speech":
        lora_share = sum(clip.speech for clip in tokens) / total * row / length
    kept = llm.activation_bytes + lora_share * llm.lora_activation_bytes
    kept += sum(clip.seen for clip in tokens) / total * row / length * llm.copied_kv_bytes
    if llm.attention == "sdpa":
        kept += (row + prompts) * llm.value_bytes
    labelled = sum(clip.answers for clip in tokens) / total * row
    layer = (llm.recompute_bytes + lora_share * llm.lora_recompute_bytes) * length
    layer += llm.window_bytes * length
    unpacked = llm.largest_matrix * llm.value_bytes
    return kept * length / row, max(_logits_bytes(losses, llm, labelled), layer) + unpacked


def _logits_bytes(losses: LossesConfig, llm: Footprint, labelled: float) -> float:
    """Logits in float32 and a copy in the weights' dtype; distillation needs a second float32 copy.

    They are freed before the backward pass, which unpacks one matrix and may recompute a layer. A
    matrix in 4 bits gives them block by block, for all tokens at once.

    Args:
        labelled: answer tokens of a row.
    """
    copy = 4 if losses.response_kl > 0 else llm.value_bytes % 4
    if not llm.output_rows:
        return min(CHUNK, labelled) * llm.vocabulary * (4 + copy)
    blocks = 2 * llm.output_rows * llm.hidden_size * llm.value_bytes
    gradient = labelled * llm.hidden_size * 4
    return labelled * llm.output_rows * (4 + copy) + blocks + gradient
