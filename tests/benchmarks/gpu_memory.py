"""GPU memory of a training step, counted without a GPU and compared with `rellm plan`.

    python tests/benchmarks/gpu_memory.py --tokenizer FOLDER

The recipe `re-llm` with an LLM of Qwen-7B's shape in NF4, input embeddings on the host, speech of
4.5 s, responses of 48 tokens. The real step runs on a simulated device: tensors have shapes but no
values (`tests/phantom`). The peak size of all tensors together is counted. FOLDER holds the files
of a ChatML tokenizer, such as SmolLM2's.

CUDA's kernels are replaced: attention is torch's memory-efficient operator; a 4-bit matrix is
unpacked for each multiplication, forward and backward, as in bitsandbytes. The adapter computes in
float32; on a GPU it uses bfloat16. CUDA's context and the allocator's gaps are not counted.
"""

import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "phantom"))

from phantom import LEDGER, PHANTOM  # it changes torch, and goes first

# isort: split
import torch
from options import make_parser, rounded, write_figures
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import Batch, Target
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.memory import BYTES_PER_WEIGHT
from rellm_cache.llm.output_matrix import QuantizedOutput
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.planning.training import MOMENTS_BYTES, plan_training
from rellm_cache.speed.known_shapes import QWEN_7B
from rellm_cache.speed.sizes import CLIP_SECONDS, RESPONSE_TOKENS
from rellm_cache.training.gradients import SummedGradients
from rellm_cache.training.master_weights import MasterWeights

SPEECH, EMOTION = 1280, 1024  # values in a frame of Whisper large-v2 and of wav2vec2 large
WORDS = " ".join(["word"] * 34)  # that the plan takes for as many tokens
LITE, LORA = "adapter.preset=lite", "llm.lora.rank=16"
CHECKPOINT, OUTPUT = "llm.activation_checkpointing=true", "llm.quantize_output=true"
OFFLOAD, EIGHT_BITS = "llm.offload_activations=true", "training.optimizer=adamw8bit"
GRADIENTS = "training.gradient_dtype=int8"
FEW, MANY = 12, 24  # clips of 1,024 and 2,048 tokens
ROWS = {FEW: "llm.pack_length=1024", MANY: "llm.pack_length=2048"}
VARIANTS = (
    {  # overrides of the recipe, and clips in a micro-batch
        "lite": ((LITE,), 6),
        "reference": ((), 6),
        "lite, four rows": ((LITE,), MANY),
        "lite, LoRA": ((LITE, LORA, "llm.lora.dropout=0"), 6),
        "lite, LoRA, checkpointed": ((LITE, LORA, "llm.lora.dropout=0", CHECKPOINT), 6),
        "lite, checkpointed, four rows": ((LITE, CHECKPOINT), MANY),
        "lite, all savings, four rows": ((LITE, CHECKPOINT, OFFLOAD, OUTPUT, EIGHT_BITS), MANY),
    }
    | {
        f"{name}, checkpointed, gradients{' in 8 bits' if packs else ''}": (
            (*changes, CHECKPOINT, *((GRADIENTS,) if packs else ())),
            6,
        )
        for name, changes in {
            "reference": (),
            "lite": (LITE,),
            "lite, LoRA": (LITE, LORA, "llm.lora.dropout=0"),
        }.items()
        for packs in (False, True)
    }
    | {
        f"lite, one row, {clips} clips{''.join(f', {name}' for name in names)}": (
            (LITE, length, *names.values()),
            clips,
        )
        for clips, length in ROWS.items()
        for names in (
            {},
            {"output in 4 bits": OUTPUT},
            {"checkpointed": CHECKPOINT},
            {"checkpointed": CHECKPOINT, "offloaded": OFFLOAD},
            {"checkpointed": CHECKPOINT, "output in 4 bits": OUTPUT},
            {"checkpointed": CHECKPOINT, "offloaded": OFFLOAD, "output in 4 bits": OUTPUT},
            {
                "checkpointed": CHECKPOINT,
                "offloaded": OFFLOAD,
                "output in 4 bits": OUTPUT,
                "8 bits": EIGHT_BITS,
            },
            {"gradients in 8 bits": GRADIENTS},
            {"checkpointed": CHECKPOINT, "gradients in 8 bits": GRADIENTS},
        )
    }
)


class _Unpacked(torch.autograd.Function):
    """A product with a 4-bit matrix: unpacked for it, and once more for the gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return F.linear(inputs, inputs.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ gradients[0].new_empty(ctx.shape), None


class PackedLinear(nn.Linear):
    """A linear layer of 4-bit weights, of which `weight` says the type they are unpacked to."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.bias = linear.bias
        self.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
        size = int(linear.weight.numel() * BYTES_PER_WEIGHT["nf4"])
        self.register_buffer("packed", torch.empty(size, dtype=torch.uint8, device="meta"))

    def forward(self, inputs: Tensor) -> Tensor:
        product = _Unpacked.apply(inputs, (self.out_features, self.in_features))
        return product if self.bias is None else product + self.bias


class PackedOutput(QuantizedOutput):
    """An output matrix in 4 bits, without values."""

    def _pack(self, block: Tensor) -> tuple[Tensor, Any]:
        size = int(block.numel() * BYTES_PER_WEIGHT["nf4"])
        return torch.empty(size, dtype=torch.uint8, device=PHANTOM), block.shape

    def _unpack(self, index: int) -> Tensor:
        return torch.empty(self._blocks[index][1], dtype=self.dtype, device=PHANTOM)


class HostRows(nn.Module):
    """Rows of a table that is on the host."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = torch.empty(1, size, dtype=torch.bfloat16).expand(rows, size)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.empty(
            *ids.shape, self.weight.shape[1], dtype=self.weight.dtype, device=PHANTOM
        )


def efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """CUDA's choice where a mask is given, in bfloat16."""
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
    return out


def qwen_7b(folder: Path, recipe: Recipe, tokenizer: Path) -> FrozenLLM:
    """An LLM of Qwen-7B's shape on the phantom device; its config lies in `folder`."""
    if recipe.llm is None:
        raise SystemExit("the recipe has no LLM")
    config = Qwen2Config.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.set_input_embeddings(nn.Identity())
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            model.set_submodule(name, PackedLinear(module))
    model.to_empty(device=PHANTOM)
    model.set_input_embeddings(HostRows(config.vocab_size, config.hidden_size))
    if recipe.llm.quantize_output:
        model.set_output_embeddings(PackedOutput(model.get_output_embeddings().weight))
    chat = ChatFormat(AutoTokenizer.from_pretrained(tokenizer), recipe.llm.template)
    return FrozenLLM(model, chat, recipe.llm)


def make_batch(clips: int) -> Batch:
    """Frames and responses of so many clips, all alike."""
    frames = int(50 * CLIP_SECONDS)
    return Batch(
        ids=tuple(map(str, range(clips))),
        streams={
            name: torch.empty(clips, frames, size, dtype=torch.float16, device=PHANTOM)
            for name, size in (("speech", SPEECH), ("emotion", EMOTION))
        },
        frame_lengths=torch.full((clips,), frames, device=PHANTOM),
        emotions=torch.zeros(clips, dtype=torch.long, device=PHANTOM),
        vad=torch.full((clips, 3), 0.5, device=PHANTOM),
        targets=((Target("response_lm", (1,) * RESPONSE_TOKENS),),) * clips,
    )


def counted(recipe: Recipe, folder: Path, tokenizer: Path, clips: int) -> float:
    """Bytes that a step holds at most, moments of the optimiser included."""
    llm = qwen_7b(folder, recipe, tokenizer)
    model = SpeechLLM(recipe, {"speech": SPEECH, "emotion": EMOTION}, llm).to(PHANTOM)
    config = recipe.training
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    masters = MasterWeights(trained, bf16=config.param_dtype == "bf16")
    gradients = SummedGradients(masters, config.gradient_dtype == "int8")
    for _ in range(2):  # the second step finds prompts remembered, and gradients where they stay
        batch = make_batch(clips)
        LEDGER.peak = LEDGER.held
        terms = model(batch).terms
        terms.total(model.loss_weights).backward()
        del terms
    gradients.clear()
    return LEDGER.peak + sum(map(torch.numel, trained.values())) * MOMENTS_BYTES[config.optimizer]


def planned(recipe: Recipe, clips: int) -> float:
    """The same by `rellm plan`."""
    utterances = [
        Utterance(id=str(i), audio="a.wav", response=WORDS, emotion="neutral") for i in range(clips)
    ]
    seconds = {u.id: CLIP_SECONDS for u in utterances}
    sizes = {"speech": SPEECH, "emotion": EMOTION}
    plan = plan_training(recipe, utterances, seconds, sizes, torch.bfloat16)
    return plan.peak_bytes


def compare(name: str, tokenizer: Path, folder: Path) -> dict[str, float]:
    """Both counts of a variant, in GB, and their ratio."""
    changes, clips = VARIANTS[name]
    overrides = [f"training.batch_size={clips}", "training.micro_batch_tokens=0", *changes]
    recipe = load_recipe("re-llm", overrides)
    if recipe.llm is None:
        raise SystemExit("the recipe has no LLM")
    recipe = replace(recipe, llm=replace(recipe.llm, model=str(folder)))
    plan, tensors = planned(recipe, clips), counted(recipe, folder, tokenizer, clips)
    gc.collect()  # before the next variant: layers and what hooks them refer to one another
    return {"planned_gb": plan / 1e9, "tensors_gb": tensors / 1e9, "ratio": plan / tensors}


def main() -> None:
    """Count every variant both ways, print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--only", default="", help="count the variants with this in their name")
    options = parser.parse_args()
    LEDGER.values_up_to = 10_000
    F.scaled_dot_product_attention = efficient_attention
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        Qwen2Config(**QWEN_7B).save_pretrained(folder)
        for name in (name for name in VARIANTS if options.only in name):
            figures[name] = rounded(compare(name, options.tokenizer, folder), 4)
            print(f"{name}: {figures[name]}", flush=True)
    write_figures(options, figures)


if __name__ == "__main__":
    main()
