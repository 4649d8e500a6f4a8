"""What training would take. In: a recipe, clips, frame sizes. Out: memory by part, operations.

Nothing is loaded and nothing trains: the LLM is counted from its config (`llm/memory`), adapter
and heads are built without data and run forward there. Bytes are what tensors take at the peak of a
step on the device that computes. On top come a GPU's own context, `CONTEXT_BYTES`, and on a
CPU the freed blocks that the C library holds (docs/benchmarks.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.examples import Questions
from rellm_cache.encoders.base import FRAMES_PER_SECOND
from rellm_cache.llm.memory import Footprint, footprint, kept_by
from rellm_cache.llm.teacher_distribution import CHUNK
from rellm_cache.model.adapter import Adapter, output_lengths
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.qa.rows import QARow
from rellm_cache.utils.devices import GPU_SHARE

COUNTED_FRAMES = 256
WORDS_TO_TOKENS = 1.4  # of English in a chat model's vocabulary, end tokens included
PROMPT_TOKENS = 40  # before the speech, for each task; and after it, a tenth of that
LABEL_TOKENS = 3  # of an answer that names an emotion
CONTEXT_BYTES = 500_000_000  # what CUDA itself takes of a GPU
MOMENTS_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2}


@dataclass(frozen=True)
class TrainingPlan:
    """What training would take on a device.

    Attributes:
        llm_bytes: frozen weights of the LLM on the device; 0 without one.
        host_bytes: of its weights kept in host memory.
        trained: parameters that train.
        trained_bytes: their weights, gradients, moments and masters, and their mean.
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

    def fits(self, room: int) -> bool:
        """Whether a GPU of so many bytes has room for it, and for CUDA's own."""
        return self.peak_bytes + CONTEXT_BYTES <= room


@dataclass(frozen=True)
class _Tokens:
    """Of a clip, or of several, in packed rows, the prompts they share not counted.

    Attributes:
        speech: that the adapter made.
        answers: that have a loss.
        total: these, and the prompts' tokens between them.
        seen: of prompts and speech, once for each segment that continues them.
    """

    speech: int
    answers: int
    total: int
    seen: int


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
    questions: Questions = MappingProxyType({}),
) -> TrainingPlan:
    """Count what training a recipe takes.

    Args:
        seconds: of each clip by id; clips without are left out.
        frame_size: D of both streams together.
        dtype: that the LLM computes in.
        room: bytes of the GPU; with `training.micro_batch_tokens = "auto"` so many tokens are
            counted as `train` would take there: CUDA's own and a tenth of the rest stay free.
        questions: that it learns from, by clip.

    Raises:
        ConfigError: the LLM's config cannot be found.
    """
    llm = footprint(recipe.llm, dtype) if recipe.llm and recipe.needs_llm else None
    size = llm.hidden_size if llm else recipe.adapter.output_size
    trained = _count_adapter(recipe, frame_size, size)
    parameters = trained.parameters + (llm.lora_parameters if llm else 0)
    frames = [round(seconds[c.id] * FRAMES_PER_SECOND) for c in clips if c.id in seconds]
    tokens = [
        _tokens(recipe, clip, seconds[clip.id], questions.get(clip.id, ()))
        for clip in clips
        if clip.id in seconds
    ]
    totals = [clip.total for clip in tokens]
    config = recipe.training
    rounded = config.param_dtype == "bf16"
    beside = (2 if rounded else 0) + (4 if config.weight_averaging else 0)
    trained_bytes = parameters * (MOMENTS_BYTES[config.optimizer] + 8 + beside)
    fixed = (llm.device_bytes if llm else 0) + trained_bytes
    at_once = _tokens_at_once(recipe, totals)
    per_token = trained.kept_bytes * sum(frames) / max(sum(totals), 1)
    passing = 0.0
    if llm and recipe.llm:
        row = max(1, min(recipe.llm.pack_length, at_once))
        losses = recipe.losses
        tasks = losses.learns_responses + (losses.emotion_lm > 0) + (losses.qa_lm > 0)
        prompts = tasks * PROMPT_TOKENS
        taught = losses.response_kl > 0
        in_rows, passing = _row_bytes(recipe.llm, llm, tokens, row, prompts, taught)
        per_token += in_rows
    if config.micro_batch_tokens == "auto" and room is not None:
        left = GPU_SHARE * (room - CONTEXT_BYTES - fixed)
        at_once = max(at_once, int((left - passing) / max(per_token, 1)))
    operations = sum(frames) * trained.operations
    if llm:
        operations += sum(totals) * 4 * llm.linear_parameters
    return TrainingPlan(
        llm_bytes=llm.device_bytes if llm else 0,
        host_bytes=llm.host_bytes if llm else 0,
        trained=parameters,
        trained_bytes=trained_bytes,
        tokens=at_once,
        step_bytes=int(at_once * per_token + passing),
        operations=operations,
    )


def _tokens(recipe: Recipe, clip: Utterance, seconds: float, questions: Sequence[QARow]) -> _Tokens:
    """Of one clip: its speech, once for each answer, but once for all its questions."""
    speech = int(output_lengths(torch.tensor([max(1, round(seconds * FRAMES_PER_SECOND))])))
    answers = []
    if recipe.losses.learns_responses:
        answers.append(_text_tokens(clip.response or ""))
    if recipe.losses.emotion_lm and clip.emotion:
        answers.append(LABEL_TOKENS)
    heard = speech * max(1, len(answers) + bool(questions))
    answers += [_text_tokens(row.answer) for row in questions]
    asked = sum(_text_tokens(row.question) for row in questions)
    said = sum(answers)
    alone = len(answers) - len(questions)
    prompts = (alone + bool(questions) + len(questions)) * PROMPT_TOKENS
    total = heard + asked + said + len(answers) * PROMPT_TOKENS // 10
    return _Tokens(heard, said, total, prompts + len(questions) * speech)


def _text_tokens(text: str) -> int:
    return int(len(text.split()) * WORDS_TO_TOKENS)


def _tokens_at_once(recipe: Recipe, totals: Sequence[int]) -> int:
    """Of clips with so many tokens, those of a micro-batch; "auto" begins with one row."""
    wanted, batch_size = recipe.training.micro_batch_tokens, recipe.training.batch_size
    if wanted == "auto":
        return recipe.llm.pack_length if recipe.llm else sum(totals[:batch_size])
    return wanted or sum(sorted(totals)[-batch_size:])


def _row_bytes(
    config: LLMConfig,
    llm: Footprint,
    tokens: Sequence[_Tokens],
    row: int,
    prompts: int,
    taught: bool,
) -> tuple[float, float]:
    """What the LLM keeps for each token of full rows, prompts and attention's bias shared out (that
    of segments, far smaller than a row's, is not counted); and
    what passes through besides, one row at a time.

    Args:
        row: tokens of clips in a row.
        prompts: tokens of the prompts before them: in the row, or remembered.
        taught: whether a teacher's distribution is a loss.
    """
    length = row if config.caches_prefix_kv else row + prompts
    total = max(sum(clip.total for clip in tokens), 1)
    changed = 1.0  # share of tokens that LoRA changes
    if config.lora and config.lora.scope == "speech":
        changed = sum(clip.speech for clip in tokens) / total * row / length
    kept = llm.kept_bytes + changed * llm.lora_kept_bytes
    kept += sum(clip.seen for clip in tokens) / total * row / length * llm.seen_bytes
    if llm.attention == "sdpa":
        kept += (row + prompts) * llm.value_bytes
    # Logits in float32 and their copy in the weights' type; a teacher's bins take a whole one more.
    # They are gone when the backward pass begins, which unpacks one matrix, and may run one layer
    # again.
    labelled = min(CHUNK, sum(c.answers for c in tokens) / total * row)
    logits = labelled * llm.vocabulary * (4 + (4 if taught else llm.value_bytes % 4))
    again = llm.passing_bytes + changed * llm.lora_passing_bytes
    unpacked = llm.largest_matrix * llm.value_bytes
    return kept * length / row, max(logits, again * length) + unpacked


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
