"""What training would take. In: a recipe, clips, frame sizes. Out: memory by part, operations.

Nothing is loaded and nothing trains: the LLM is counted from its config (`llm/footprint`), adapter
and heads are built without data and run forward there. Bytes are of the device that computes; a
GPU's own context, about half a gigabyte, comes on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rellm_cache.config import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import FRAMES_PER_SECOND
from rellm_cache.llm.footprint import Footprint, footprint, kept_by
from rellm_cache.llm.teacher import CHUNK
from rellm_cache.model.adapter import Adapter, output_lengths
from rellm_cache.model.heads import AuxiliaryHeads

COUNTED_FRAMES = 256
WORDS_TO_TOKENS = 1.4  # of English in a chat model's vocabulary, end tokens included
PROMPT_TOKENS = 40  # before the speech, once a row; and after it, for each answer, a tenth of that
MOMENTS_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}


@dataclass(frozen=True)
class TrainingPlan:
    """What training would take on a device.

    Attributes:
        llm_bytes: frozen weights of the LLM on the device; 0 without one.
        host_bytes: of its weights kept in host memory.
        trained: parameters that train.
        trained_bytes: their weights, gradients, moments and masters.
        tokens: that go through the LLM at once.
        step_bytes: what a micro-batch of so many tokens keeps and passes through.
        operations: of an epoch: two for each weight of the LLM and each token forward, two
            backward; six for each weight of the adapter and each frame it meets.
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
        """On the device, its context not counted."""
        return self.llm_bytes + self.trained_bytes + self.step_bytes


@dataclass(frozen=True)
class _Trained:
    """Adapter and heads: their parameters, what a frame keeps, and operations a frame takes."""

    parameters: int
    kept_bytes: float
    operations: float


def plan_training(
    recipe: Recipe,
    clips: Sequence[Utterance],
    seconds: dict[str, float],
    frame_size: int,
    dtype: torch.dtype,
    room: int | None = None,
) -> TrainingPlan:
    """Count what training a recipe takes.

    Args:
        seconds: of each clip by id; clips without are left out.
        frame_size: D of both streams together.
        dtype: that the LLM computes in.
        room: bytes of the device; with `training.tokens_per_step = "auto"` so many tokens are
            counted as fit there.

    Raises:
        ConfigError: the LLM's config cannot be found.
    """
    llm = footprint(recipe.llm, dtype) if recipe.llm and recipe.needs_llm else None
    size = llm.hidden_size if llm else recipe.adapter.output_size
    trained = _count_adapter(recipe, frame_size, size)
    parameters = trained.parameters + (llm.lora_parameters if llm else 0)
    frames = [round(seconds[c.id] * FRAMES_PER_SECOND) for c in clips if c.id in seconds]
    tokens = [_tokens(recipe, clip, seconds[clip.id]) for clip in clips if clip.id in seconds]
    config = recipe.training
    rounded = config.weights == "bf16"
    trained_bytes = parameters * (MOMENTS_BYTES[config.optimiser] + 8 + (2 if rounded else 0))
    fixed = (llm.device_bytes if llm else 0) + trained_bytes
    per_token, passing = _token_bytes(llm, trained, frames, tokens, dtype)
    if config.tokens_per_step == 0:
        at_once = sum(sorted(tokens)[-config.batch_size :])
    elif config.tokens_per_step == "auto":
        at_once = recipe.llm.row_tokens if recipe.llm else sum(tokens[: config.batch_size])
        if room is not None:
            at_once = max(at_once, int((room - fixed - passing) / max(per_token, 1)))
    else:
        at_once = config.tokens_per_step
    operations = sum(frames) * trained.operations
    if llm:
        operations += sum(tokens) * 4 * llm.linear_parameters
    return TrainingPlan(
        llm_bytes=llm.device_bytes if llm else 0,
        host_bytes=llm.host_bytes if llm else 0,
        trained=parameters,
        trained_bytes=trained_bytes,
        tokens=at_once,
        step_bytes=int(at_once * per_token + passing),
        operations=operations,
    )


def _tokens(recipe: Recipe, clip: Utterance, seconds: float) -> int:
    """Of one clip in packed rows: its speech and answers, the shared prompt not counted."""
    speech = int(output_lengths(torch.tensor([max(1, round(seconds * FRAMES_PER_SECOND))])))
    total = 0
    if recipe.losses.response or recipe.losses.response_kl:
        words = len(clip.response.split()) * WORDS_TO_TOKENS if clip.response else 0
        total += speech + PROMPT_TOKENS // 10 + int(words)
    if recipe.losses.recognition and clip.emotion:
        total += speech + PROMPT_TOKENS // 10 + 3
    return total or speech


def _token_bytes(
    llm: Footprint | None,
    trained: _Trained,
    frames: Sequence[int],
    tokens: Sequence[int],
    dtype: torch.dtype,
) -> tuple[float, float]:
    """What a token of a micro-batch keeps, its share of the adapter's included; and what passes
    through besides, whatever the number of tokens."""
    per_token = trained.kept_bytes * sum(frames) / max(sum(tokens), 1)
    if llm is None:
        return per_token, 0.0
    logits = CHUNK * llm.vocabulary * (4 + dtype.itemsize)
    return per_token + llm.kept_bytes + llm.passing_bytes, logits + 4.0 * llm.largest_matrix


def _count_adapter(recipe: Recipe, inputs: int, outputs: int) -> _Trained:
    """Build the adapter without data and see what it keeps; what heads keep is small beside it."""
    with torch.device("meta"):
        adapter = Adapter(recipe.adapter, inputs, outputs)
        heads = AuxiliaryHeads(recipe.heads, outputs)
        frames = torch.empty(1, COUNTED_FRAMES, inputs)
        lengths = torch.empty(1, dtype=torch.long)
    with kept_by(adapter) as kept:
        adapter(frames, lengths)
    parameters = sum(p.numel() for module in (adapter, heads) for p in module.parameters())
    convolved = sum(
        p.numel() / 2 ** (index + 1)
        for index, conv in enumerate(adapter.convs)
        for p in conv.parameters()
    )
    return _Trained(parameters, kept() / COUNTED_FRAMES, 6 * convolved)
