"""Recipe schema: every table and field of a recipe, with documentation, type and range.

The text under a field documents it; docs/recipes.md is made from these texts. `recipes` loads
recipes from TOML.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from rellm_cache.config.constraints import (
    Count,
    DropoutRate,
    Holds,
    LearningRate,
    Range,
    Section,
    Seed,
    Share,
    Size,
    Weight,
    WeightDecay,
    check_fields,
)
from rellm_cache.config.plugins import (
    ADAPTERS,
    ENCODERS,
    LOSSES,
    NAME,
    EncoderTraits,
    Plugin,
)
from rellm_cache.config.qa import QASettings
from rellm_cache.config.specs import CachedSpec, EncoderSpec, TranscriberSpec
from rellm_cache.config.toml import REST, to_table
from rellm_cache.errors import ConfigError

_PROMPT_ORDER = ("neutral", "sad", "angry", "happy", "surprise")  # of the paper's prompt


# Loss over answers → the task of these answers; plug-ins name others.
ANSWER_TASKS = {
    "response_lm": "response_lm",
    "response_kl": "response_lm",
    "emotion_lm": "emotion_lm",
    "qa_lm": "qa_lm",
}


@dataclass(frozen=True)
class EncoderConfig(EncoderSpec):
    """One stream of frames: the frozen encoder that makes them, and how the adapter reads them."""

    version: Annotated[int, Range(0)] = 0
    """Version of the encoder's code. It is raised when the same model would give other frames; 0
    takes the present one: leave it out."""
    # As `Section.later`.
    later: ClassVar[tuple[str, ...]] = ("layers", "speaker_normalization")
    # Fields of any kind that tell how frames are read, and are no part of the spec.
    reading: ClassVar[tuple[str, ...]] = ("pooling", "speaker_normalization")

    pooling: Literal["frame", "utterance"] = "frame"
    """`"frame"` gives the adapter every frame (as in the paper), `"utterance"` their mean in place
    of each (as in the reference code, for the emotion stream). The cache is the same."""
    speaker_normalization: bool = False
    """Whether frames have mean 0 and deviation 1 over all clips of their speaker in the same split
    (CMVN by speaker). The manifest must name the speakers, and the clips of a test speaker must all
    be there before the first is recognized. The cache is the same. See *Speaker normalization*."""

    def __post_init__(self) -> None:
        plugin, traits, where = self._plugin, self.traits, f"encoder {self.kind!r}"
        derived = {
            "version": self.version or traits.version,
            "frame_rate": traits.frame_rate,
            "provider": plugin.provider,
            "options": plugin.complete(self.options, f"{where}: options"),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        super().__post_init__()
        for name, known in (("window", traits.windows), ("normalisation", traits.normalisations)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{where}: {name} = {getattr(self, name)!r} is not known; "
                    f"expected {' or '.join(map(repr, known))}"
                )
        if bool(self.model) != traits.needs_model:
            expected = "a hub id or a local folder" if traits.needs_model else "no model"
            raise ConfigError(f"{where}: found model = {self.model!r}, expected {expected}")
        if self.layers and not traits.several_layers:
            raise ConfigError(
                f"{where}: found layers, but it gives frames of one layer only; leave it out"
            )

    @property
    def _plugin(self) -> Plugin:
        return ENCODERS.find(self.kind, "kind of an encoder", self.provider)

    @property
    def traits(self) -> EncoderTraits:
        """What its class declares: frame rate, windows and so on."""
        traits: EncoderTraits = self._plugin.traits
        return traits

    @property
    def spec(self) -> EncoderSpec:
        """The encoder's spec, which determines the frames."""
        own = dataclasses.fields(EncoderSpec)
        return EncoderSpec(**{field.name: getattr(self, field.name) for field in own})

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON, in the form that a store holds."""
        return self.spec.to_json()

    def differences(self, other: CachedSpec) -> list[str]:
        """Return the fields in which `other` differs from the spec, as readable text."""
        return self.spec.differences(other)

    def unmet_by(self, other: CachedSpec) -> list[str]:
        """Return why frames of `other` cannot be read as frames of the spec, as readable text."""
        return self.spec.unmet_by(other)


@dataclass(frozen=True)
class AdapterConfig(Section):
    """The trained adapter; by default three convolutions (time ÷ 8) and a residual bottleneck."""

    table = "adapter"
    later = ("layer_mix", "layer_norm")

    kind: str = "conv"
    """Which adapter: `"conv"`, `"statistics"`, or a plug-in's. The fields below are those of
    `"conv"`, except `layer_mix`, `layer_norm`, `output_size` and `options`. Another `kind` than
    that of the recipe below drops them."""
    preset: Literal["reference", "lite"] = "reference"
    """`"reference"` is as wide as the input (205 M parameters from 2304 to 4096 values). `"lite"`
    scales each input channel and has separable convolutions with `width` channels, with a low-rank
    skip connection around them."""
    width: Size = 96
    """Channels of the convolutions; `"lite"` only."""
    bottleneck: Size = 512
    """Width of the residual bottleneck; in `"lite"` also the rank of the skip connection."""
    dropout: DropoutRate = 0.0
    """Dropout after the first two convolutions and, in `"lite"`, before the skip connection."""
    channel_dropout: DropoutRate = 0.0
    """Share of input channels that are set to zero for a whole clip, in training only."""
    crop_frames: Annotated[int, Range(0)] = 0
    """In training only, each clip is cut to a random run of at most this many frames (50 a second).
    0 keeps clips whole. Use it for emotion recognition; a response needs the whole sentence."""
    layer_mix: Literal["concat", "softmax"] = "concat"
    """How the layers of a stream with several (`encoders.NAME.layers`) enter: side by side, or as
    their sum with one learned weight for each layer (SUPERB's weighted sum). The weights are the
    softmax of trained numbers, and equal at first. See *Several layers*."""
    layer_norm: bool = False
    """Whether each layer of such a frame is first normalized to mean 0 and variance 1 (SUPERB's
    `normalize`)."""
    output_size: Annotated[int, Range(0, 65_536)] = 0
    """Size of the adapter's frames where no LLM is loaded. 0 takes the hidden size of the LLM; any
    other value must equal it. Without an LLM, 0 leaves the adapter `"statistics"` its own size."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Options of another adapter than `"conv"`: the table `[adapter.options]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        complete = self.plugin.complete(self.options, "adapter.options")
        object.__setattr__(self, "options", complete)
        for item in () if self.kind == "conv" else dataclasses.fields(self):
            if item.name not in self.shared and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"adapter.{item.name} = {getattr(self, item.name)!r}: a field of kind 'conv', "
                    f"but adapter.kind = {self.kind!r}; its own fields are in [adapter.options]"
                )

    # Fields of all kinds.
    shared: ClassVar[tuple[str, ...]] = (
        "kind", "layer_mix", "layer_norm", "output_size", "options",
    )  # fmt: skip

    @property
    def plugin(self) -> Plugin:
        """The adapter that `kind` names."""
        return ADAPTERS.find(self.kind, "adapter.kind")


@dataclass(frozen=True)
class HeadsConfig(Section):
    """The auxiliary heads over the adapter's frames."""

    table = "heads"
    later = ("projection", "unlisted", "speed_copies")

    emotions: tuple[str, ...] = ("neutral", "happy", "angry", "sad", "surprise")
    """Classes of the category head and answers of emotion recognition: two or more names, in lower
    case as in the manifest."""
    unlisted: Literal["error", "ignore"] = "error"
    """What training does about clips with an emotion that `emotions` does not name: `"error"`
    refuses them, `"ignore"` trains on them without an emotion."""
    dimensions: bool = True
    """Whether there is a head for arousal, dominance and valence."""
    pooling: Literal["mean", "statistics", "attention", "attentive_statistics"] = "mean"
    """How frames become one vector: `"mean"` of the valid frames (the paper); `"statistics"`, mean
    and standard deviation; `"attention"`, the mean with weights from one learned query; or
    `"attentive_statistics"`, mean and standard deviation with learned weights (Okabe et al. 2018).
    See *Pooling*."""
    projection: Annotated[int, Range(0, 65_536)] = 0
    """Size of a linear layer with GELU on each frame before pooling; 0 for none. Deviations and
    attention are then those of the projected frames."""
    dropout: DropoutRate = 0.0
    """Dropout on the pooled vector, before both heads."""
    freeze: tuple[Literal["emotion", "dimensions"], ...] = ()
    """Heads that keep the weights of `training.init_from`, with the projection and attention before
    them; their losses train the adapter alone. The reference code freezes the category head,
    `["emotion"]`, which BLSP-Emo trained."""
    speed_copies: Annotated[tuple[float, ...], Range(0.5, 2)] = ()
    """A clip is recognized from its own frames and from those of copies of it at each of these
    speeds, as `[0.9, 1.1]`: emotion logits and dimensions are means over all of them.
    `rellm extract` encodes the copies once. Only for a recipe without an LLM, which hears a clip
    once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.emotions)) < max(2, len(self.emotions)):
            raise ConfigError(
                f"heads.emotions = {list(self.emotions)}: expected two or more different emotions"
            )


@dataclass(frozen=True)
class LossesConfig(Section):
    """Weights of Eq. 10, L = response_lm + emotion_ce + vad; a weight of 0 leaves a loss out."""

    table = "losses"

    response_lm: Weight = 1.0
    """Weight of the mean negative log-likelihood of the expected response's tokens, as the answer
    to `prompts.alignment`."""
    emotion_ce: Weight = 1.0
    """Weight of the mean cross entropy of the category head, over clips with an emotion."""
    vad: Weight = 1.0
    """Weight of the dimension head's error, `vad_kind`, over clips with dimensions."""
    emotion_lm: Weight = 0.0
    """Weight of the mean negative log-likelihood of the emotion's name, as the LLM's answer to
    `prompts.recognition`. Not in the paper."""
    qa_lm: Weight = 0.0
    """Weight of the mean negative log-likelihood of the answers to the questions that `rellm qa`
    wrote beside the manifest; see `[qa]`."""
    response_kl: Weight = 0.0
    """Weight of the mean divergence KL(text LLM ‖ speech LLM) at the tokens of the expected
    response, times `kl_temperature` squared (Hinton et al. 2015). It needs
    `rellm respond --teacher`. The loss `response_lm` is recorded too, even where its weight is 0.
    BLSP's loss of this name differs: see docs/reproduce.md."""
    label_smoothing: DropoutRate = 0.0
    """Label smoothing of `emotion_ce`."""
    class_weights: Annotated[Literal["none", "balanced"] | tuple[float, ...], Range(above=0)] = (
        "none"
    )
    """Weight of each emotion in `emotion_ce`: the same for all; the inverse of the emotion's share
    of the training split; or a number for each of `heads.emotions`."""
    vad_kind: Literal["mse", "ccc"] = "mse"
    """Squared error, or 1 - CCC over the whole optimizer step: the mean of three dimensions."""
    kl_temperature: Annotated[float, Range(above=0)] = 2.0
    """Temperature of both distributions in `response_kl`. Another one needs another
    `rellm respond --teacher`."""
    kl_top_k: Count = 32
    """Tokens of the text LLM's distribution that are kept; all others share one bin. Another number
    needs another `rellm respond --teacher`."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)
    """Options of the losses of plug-ins: a table `[losses.options.NAME]` for each."""
    extra: dict[str, Weight] = field(default_factory=dict, hash=False, metadata=REST)
    """Weights of the losses of plug-ins by name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, weight in self.extra.items():
            if expected := Range(0).broken_by(weight):
                raise ConfigError(f"losses.{name} = {weight}: expected {expected}")
        if idle := sorted(self.options.keys() - self.extra.keys()):
            raise ConfigError(
                f"losses.options.{idle[0]}: expected the weight of a plug-in's loss, "
                f"losses.{idle[0]}"
            )
        complete = {
            name: self.plugin(name).complete(self.options.get(name, {}), f"losses.options.{name}")
            for name in self.extra
        }
        object.__setattr__(self, "options", {name: own for name, own in complete.items() if own})

    def plugin(self, name: str, recorded: str = "") -> Plugin:
        """The loss of a plug-in."""
        fields = (item.name for item in dataclasses.fields(self))
        own = tuple(name for name in fields if name not in ("extra", "options"))
        return LOSSES.find(name, f"losses.{name}", recorded, own)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each loss by name, those of plug-ins last and sorted."""
        own = [item.name for item in dataclasses.fields(self) if item.type is Weight]
        return {name: getattr(self, name) for name in own} | dict(sorted(self.extra.items()))

    @property
    def tasks(self) -> set[str]:
        """Tasks with answers that a loss trains on: `response_lm`, `emotion_lm`, `qa_lm`."""
        used = {name for name, weight in self.weights.items() if weight > 0}
        found = {
            ANSWER_TASKS.get(name) or self.plugin(name).traits
            for name in used
            if name in ANSWER_TASKS or name in self.extra
        }
        return found - {""}

    @property
    def learns_responses(self) -> bool:
        """Whether a loss trains on the expected responses."""
        return "response_lm" in self.tasks


@dataclass(frozen=True)
class LoraConfig(Section):
    """LoRA: trained low-rank additions to the frozen LLM's projections. The defaults are the
    reference code's."""

    table = "llm.lora"

    rank: Size = 16
    """Rank of the two matrices A and B of a projection, y = W x + (alpha / rank) B A x."""
    alpha: Annotated[float, Range(above=0)] = 16.0
    """Strength of the addition."""
    dropout: DropoutRate = 0.05
    """Dropout on x before A, in training."""
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Names of projections in each layer of the LLM. The default is all of Llama, Qwen2 and Qwen3.
    Qwen v1's `c_attn` is `q_proj`, `k_proj` and `v_proj` here. Each has its own A; the reference
    code, with one `c_attn`, shares one A among the three."""
    scope: Literal["speech", "all"] = "speech"
    """`"speech"` adds at the positions of speech only, so that text is processed as by the frozen
    LLM. `"all"` adds at every token, generated ones included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise ConfigError(
                "llm.lora.targets = []: expected one projection or more; for none, leave out the "
                "table, or --set llm.lora=none"
            )


@dataclass(frozen=True)
class LLMConfig(Section):
    """The frozen chat LLM: which model and template, then how it runs."""

    table = "llm"
    later = ("quantized_copy", "offload_activations", "quantize_output", "cpu_precision")

    model: str
    """Hub id or local folder of a chat model in a native transformers layout (Llama, Qwen2, Qwen3).
    One that needs its own Python code is refused; `rellm import qwen` makes Qwen-7B v1 native."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty takes the newest. Ignored for a local folder."""
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """4-bit NF4 with double quantization, 8-bit integers, or the weights as they are."""
    cpu_precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of products with the LLM's weights on a CPU. `"bf16"` takes about half the time
    on processors with bf16 instructions, which `rellm doctor` names; losses and answers differ by
    rounding. All other arithmetic is fp32 on a CPU, and bf16 on a GPU."""
    template: Literal["chatml", "model"] = "chatml"
    """`"chatml"`, the paper's, needs its tokens. `"model"` is the tokenizer's own chat template."""
    pack_length: Count = 512
    """Most tokens of packed examples in one row, without the shared prompt. A longer example has
    its own row. A larger number is faster and takes more memory."""
    attention: Literal["auto", "segments", "sdpa", "flex"] = "auto"
    """Attention over a packed row. `"segments"` computes it one example at a time, which is the
    least work on a CPU. `"sdpa"` with a dense mask runs everywhere. `"flex"` (FlexAttention) skips
    masked blocks, for long rows on a GPU. `"auto"` is `"segments"` on a CPU, else `"sdpa"`. All
    give the same numbers."""
    activation_checkpointing: bool = False
    """Keep only each layer's input and run it again backward: a third more time, less memory."""
    offload_activations: bool = False
    """Keep these inputs in host memory until the backward pass. On a GPU they are copied beside the
    computation; on a CPU it saves nothing. It needs `activation_checkpointing`."""
    quantize_output: bool = False
    """Keep the output matrix in 4-bit NF4 too (Qwen-7B: 0.3 instead of 1.2 GB) and unpack it by
    blocks of the vocabulary. It changes losses and answers slightly, so that answers are written
    again. Not for models that tie the matrix to their input embeddings."""
    offload_embeddings: bool = False
    """Keep the table of input embeddings in host memory (Qwen-7B: 1.2 GB) and copy the rows that a
    step needs. Not for models that tie it to their output matrix."""
    quantized_copy: bool = True
    """Whether the quantized weights are saved once, in `quantized/` under the models root, and read
    from there at each later start: in seconds, where quantizing 7 B parameters takes minutes. They
    take half a byte for a weight, and the embeddings as they are."""
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offload_activations and not self.activation_checkpointing:
            raise ConfigError(
                "llm.offload_activations = true: it moves what activation checkpointing keeps; set "
                "llm.activation_checkpointing = true, or leave it out"
            )

    def attention_on(self, device_type: str) -> str:
        """The kernel over packed rows on a device: "segments", "sdpa" or "flex"."""
        if self.attention != "auto":
            return self.attention
        return "segments" if device_type == "cpu" else "sdpa"

    @property
    def caches_prefix_kv(self) -> bool:
        """Whether keys and values of prompts are computed once and kept.

        LoRA at all positions changes them at each step.
        """
        return self.lora is None or self.lora.scope == "speech"

    @property
    def identity(self) -> dict[str, str]:
        """The fields that determine its answers without LoRA; others affect speed and memory."""
        names = ("model", "revision", "quantization", "template")
        output = {"output": "nf4"} if self.quantize_output else {}
        products = {"cpu_precision": "bf16"} if self.cpu_precision == "bf16" else {}
        return {name: getattr(self, name) for name in names} | output | products


@dataclass(frozen=True)
class PromptsConfig(Section):
    """The paper's prompts, and limits of the answers."""

    table = "prompts"

    empathetic_system: str = (
        "You are a helpful assistant. Your response should fulfill requests with empathy toward "
        "user's emotion tone."
    )
    """System text of `expected_response`, `alignment` and `answer`."""
    plain_system: str = "You are a helpful assistant."
    """System text of `recognition`."""
    expected_response: Annotated[str, Holds("{transcript}")] = (
        "Continue the following sentence that reflects a '{emotion}' emotion tone in a coherent "
        "style: {transcript}"
    )
    """Step 1, `rellm respond`: from the transcript. It may also hold `{emotion}`."""
    alignment: Annotated[str, Holds("{speech}")] = (
        "Continue the following sentence based on the conveyed emotion tone in a coherent style: "
        "{speech}"
    )
    """Step 2, `rellm train`: from the speech."""
    answer: Annotated[str, Holds("{speech}")] = "{speech}"
    """The user's turn in `rellm generate`."""
    labelled_answer: Annotated[str, Holds("{speech}", "{emotion}")] = "<{emotion}> {speech}"
    """The user's turn where `text.gold_emotion` gives the true emotion: before the transcript, as
    in the paper."""
    recognition: Annotated[str | tuple[str, ...], Holds("{speech}")] = (
        "Please identify the emotion tone of the speech provided below. Select from the following "
        "options: {options}.\n\nSpeech: {speech}"
    )
    """Emotion recognition by the LLM. `{options}` is filled in from `heads.emotions`: neutral, sad,
    angry, happy and surprise in the order of the paper's prompt, then the others. A list has
    several wordings: `rellm evaluate` averages the label probabilities over all of them; training
    and answers in words use the first."""
    expected_response_tokens: Count = 48
    """Most new tokens of an expected response."""
    answer_tokens: Count = 256
    """Most new tokens of an answer."""
    answer_sentences: Annotated[int, Range(0)] = 0
    """Most sentences of an answer: generation ends after them. 0 is any number."""
    stop_after_question: bool = False
    """Whether the first question of an answer ends it, if `answer_sentences` does not before."""
    example_tokens: Count = 256
    """Most tokens of the step 1 request and its response together, with the tokens that end a
    complete response. Longer ones are dropped."""

    @property
    def recognition_wordings(self) -> tuple[str, ...]:
        """The wordings of `recognition`, one or more."""
        return (self.recognition,) if isinstance(self.recognition, str) else self.recognition

    def recognition_of(self, emotions: Sequence[str]) -> str:
        """The first wording with its options in the paper's order, as "neutral, sad, or angry"."""
        return self.recognition_requests(emotions)[0][0]

    def recognition_requests(self, emotions: Sequence[str], orders: int = 1) -> list[list[str]]:
        """Each wording with its options in several orders: the paper's, then shuffled ones.

        The orders are the same in every call and for all wordings. There are fewer than `orders`
        if so few emotions have no more.
        """
        known = [name for name in _PROMPT_ORDER if name in emotions]
        names = [*known, *(name for name in emotions if name not in known)]
        found = [names]
        shuffle = random.Random(0).sample  # the same on every machine
        while len(found) < min(orders, math.factorial(len(names))):
            if (order := shuffle(names, len(names))) not in found:
                found.append(order)
        listed = [_enumerate(order) for order in found]
        return [
            [wording.replace("{options}", options) for options in listed]
            for wording in self.recognition_wordings
        ]


def _enumerate(names: Sequence[str]) -> str:
    """Names as a list in a sentence: "neutral, sad, or angry", or "neutral or sad"."""
    *names, last = names
    comma = "," if len(names) > 1 else ""
    return f"{', '.join(names)}{comma} or {last}"


@dataclass(frozen=True)
class TextConfig:
    """A model that reads transcripts instead of speech; nothing is trained."""

    transcript: Literal["corpus", "whisper"] = "corpus"
    """The manifest's transcript, or the one that Whisper wrote (`rellm transcribe`)."""
    gold_emotion: bool = False
    """Whether a request names the true emotion (`prompts.labelled_answer`). Such a model is not
    asked for emotion recognition."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """Optimization. The defaults are the reference's."""

    table = "training"
    later = ("early_stopping", "speed_copies", "solver", "tracker", "gradient_dtype")

    epochs: Count = 3
    """Times that every clip of the train split is seen."""
    batch_size: Count = 2
    """Clips that are drawn together, of similar length. An optimizer step has `batch_size`
    times `gradient_accumulation` clips, over all processes together."""
    gradient_accumulation: Count = 8
    """Draws in an optimizer step."""
    averaging: Literal["step", "micro_batch"] = "step"
    """Losses of a step: the mean over all its tokens and clips; or the mean of each draw of
    `batch_size` clips, then the mean of the draws that have the loss (as in the reference code,
    where the tokens of short responses weigh more). `"micro_batch"` puts clips of one draw at most
    through the model at once."""
    micro_batch_tokens: Annotated[Literal["auto"] | int, Range(0, word="auto")] = 0
    """Most tokens that go through the model at once: speech embeddings, the prompt after them and
    answers; without an LLM, speech embeddings. It cuts the clips of a step into micro-batches. It
    changes memory and speed, but not the effective batch or the result. 0 takes `batch_size` clips
    at once. `"auto"` measures the first micro-batches and takes as many tokens as fit into memory:
    on a GPU what is free, on a CPU a quarter of the machine's. See *Memory*."""
    bucket_window: Count = 32
    """Clips are drawn at random into windows of this many batches and sorted by length within a
    window. A larger window pads less and mixes less; 1 does not sort."""
    solver: Literal["gradient", "least_squares"] = "gradient"
    """How weights are found: in optimizer steps; or the heads alone by least squares, in one step
    over all training clips, while the adapter stays as it starts. See *Least squares*."""
    learning_rate: LearningRate = 2e-5
    """The highest learning rate, which is reached after the warm-up."""
    weight_decay: WeightDecay = 0.05
    """Weight decay of matrices and convolutions. Biases and other vectors have none."""
    max_grad_norm: Annotated[float, Range(above=0)] = 1.0
    """Largest norm of the gradient of a step; a very large number leaves gradients as they are."""
    warmup_steps: Annotated[int, Range(0)] = 200
    """Optimizer steps in which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate from the warm-up to the last step: linear or cosine decay to 0, or constant."""
    weight_averaging: Share = 0.0
    """Share of the steps, the last ones, over which weights are averaged. The mean is validated and
    kept. The reference has none."""
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    """AdamW with float32 moments; with 8-bit moments (bitsandbytes), a quarter of their memory; or
    with 8-bit moments that move to host memory when the GPU is full, which needs a CUDA GPU."""
    gradient_dtype: Literal["fp32", "int8"] = "fp32"
    """Type of the gradients that are kept from one micro-batch of a step to the next: float32; or
    blocks of 8-bit numbers (bitsandbytes), a quarter of the memory, which rounds the sum at each
    micro-batch. A step of one micro-batch keeps none, so there it saves nothing."""
    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights of adapter, heads and LoRA while they train. `"bf16"` keeps float32
    master weights in the optimizer and sums gradients in float32. It needs bf16 arithmetic, which
    `precision = "auto"` then chooses on any device. The saved weights are bf16, as validated."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the adapter. `"auto"` is bf16 autocast on a GPU and fp32 on a CPU. It does not
    change the type of the weights."""
    best_metric: Literal["loss", "ua", "last"] = "loss"
    """Which epoch's weights are kept: lowest validation loss, highest validation UA of the
    category head, or the last. Without a validation split, the last."""
    early_stopping: Annotated[int, Range(0)] = 0
    """Training stops after this many epochs in a row without a better `best_metric`; 0 never stops
    it. It needs a validation split and `best_metric` `"loss"` or `"ua"`. Learning rate and
    `weight_averaging` count the steps of all `epochs`."""
    speed_copies: Annotated[tuple[float, ...], Range(0.5, 2)] = ()
    """Each clip of the train split is also a training clip at each of these speeds, as
    `[0.9, 1.1]`: pitch and formants move, as with another voice. `rellm extract` encodes the copies
    once, like clips; an epoch is longer by as many times. Copies outside the manifest's limits of
    duration are left out."""
    checkpoint_minutes: Annotated[float, Range(0)] = 5.0
    """Minutes between checkpoints within an epoch. Each epoch ends with one."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where losses, learning rate, validation scores and the recipe are shown: TensorBoard in the
    run folder, Weights & Biases, Trackio, or nowhere. It changes nothing in the run."""
    init_from: str = ""
    """Run folder with the weights that adapter, heads and LoRA start from. Shapes must agree, but a
    run without LoRA may start a recipe with it. `rellm import blsp` makes one from a BLSP-Emo
    checkpoint. Empty starts from random weights (`"lite"`: its input scale from the training
    frames)."""
    init_parts: tuple[Literal["adapter", "emotion", "dimensions", "lora"], ...] = (
        "adapter", "emotion", "dimensions", "lora",
    )  # fmt: skip
    """Parts that `init_from` gives; `"emotion"` and `"dimensions"` are the heads, each with the
    projection and attention before them. The others start at random. The reference code takes
    category head and LoRA from BLSP-Emo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.param_dtype == "bf16" and self.precision == "fp32":
            raise ConfigError(
                'training.param_dtype = "bf16" with precision = "fp32": bf16 weights are '
                'multiplied in bf16; set training.precision = "auto", or '
                'training.param_dtype = "fp32"'
            )
        single = self.gradient_accumulation == 1 and self.micro_batch_tokens == 0
        if self.gradient_dtype == "int8" and self.solver == "least_squares":
            raise ConfigError(
                'training.gradient_dtype = "int8" with training.solver = "least_squares": it has '
                "no gradients; leave training.gradient_dtype out"
            )
        if self.gradient_dtype == "int8" and single:
            raise ConfigError(
                'training.gradient_dtype = "int8" with gradient_accumulation = 1 and '
                "micro_batch_tokens = 0: a step is one micro-batch, which keeps no gradients for "
                "another; set training.micro_batch_tokens, or leave training.gradient_dtype out"
            )
        if self.solver == "least_squares" and (self.epochs, self.weight_averaging) != (1, 0):
            raise ConfigError(
                f'training.solver = "least_squares" with epochs = {self.epochs} and '
                f"weight_averaging = {self.weight_averaging:g}: it is one step; set "
                "training.epochs = 1 and training.weight_averaging = 0"
            )
        if self.early_stopping and self.best_metric == "last":
            raise ConfigError(
                f'training.early_stopping = {self.early_stopping} with best_metric = "last": the '
                'last epoch is always the best; set training.best_metric = "loss" or "ua", or '
                "training.early_stopping = 0"
            )


@dataclass(frozen=True)
class Recipe:
    """One experiment, complete: the same recipe, data and seed give the same run.

    Example:
        >>> import rellm_cache as rellm
        >>> recipe = rellm.load_recipe("heads")
        >>> list(recipe.encoders), recipe.training.epochs
        (['speech', 'emotion'], 40)
    """

    name: str
    """Name of the experiment in messages and in the report."""
    encoders: dict[str, EncoderConfig] = field(hash=False)  # by stream, in order
    seed: Seed = 1
    """Seed of the adapter's first weights, the order of batches, dropout and crops."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    losses: LossesConfig = field(default_factory=LossesConfig)
    llm: LLMConfig | None = None
    text: TextConfig | None = None
    transcriber: TranscriberSpec | None = None
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    qa: QASettings = field(default_factory=QASettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    plugins: dict[str, str] = field(default_factory=dict, hash=False)
    """Package and version of each plug-in, as `"adapter.qformer" = "rellm-toy 0.1.0"`: filled in
    when the recipe is loaded, and recorded in its run."""

    def __post_init__(self) -> None:
        check_fields("", self)
        recorded = {key: self.plugins.get(key, own) for key, own in self.providers().items()}
        object.__setattr__(self, "plugins", recorded)
        if not self.encoders:
            raise ConfigError(
                f"recipe {self.name!r}: [encoders] is empty; expected a table for each stream, as "
                "[encoders.speech]"
            )
        for name in self.encoders:
            if not NAME.fullmatch(name):
                raise ConfigError(f"encoders.{name}: expected a name of letters, digits, - and _")
        self._check_layers()
        if self.text is not None and self.llm is None:
            raise ConfigError(
                f"recipe {self.name!r}: [text] is read by an LLM, but there is no [llm] table; add "
                "one"
            )
        if self.needs_llm and self.llm is None:
            raise ConfigError(
                f"recipe {self.name!r}: losses.response_lm, losses.response_kl, losses.emotion_lm "
                "or losses.qa_lm is above 0 but there is no [llm] table; add one, or set these "
                "weights to 0"
            )
        traits = self.adapter.plugin.traits
        has_size = bool(self.adapter.output_size) or (traits is not None and traits.has_own_size)
        if not self.needs_llm and not has_size:
            raise ConfigError(
                f"recipe {self.name!r}: without an LLM nothing fixes the size of the adapter's "
                "output; set adapter.output_size (576 for SmolLM2-135M, 4096 for Qwen-7B)"
            )
        if self.needs_llm and self.training.solver == "least_squares":
            raise ConfigError(
                f'recipe {self.name!r}: training.solver = "least_squares" fits the heads alone, '
                "but a loss needs the LLM; set the weights of its losses to 0"
            )
        if self.needs_llm and self.heads.speed_copies:
            raise ConfigError(
                f"recipe {self.name!r}: heads.speed_copies = {list(self.heads.speed_copies)}, but "
                "its LLM hears a clip once, as it is; leave heads.speed_copies out"
            )
        if self.training.averaging == "micro_batch" and self.losses.vad_kind == "ccc":
            raise ConfigError(
                f'recipe {self.name!r}: training.averaging = "micro_batch" with losses.vad_kind = '
                '"ccc": CCC is of a whole step; set averaging = "step" or vad_kind = "mse"'
            )
        weights = self.losses.class_weights
        if isinstance(weights, tuple) and len(weights) != len(self.heads.emotions):
            raise ConfigError(
                f"losses.class_weights has {len(weights)} numbers, heads.emotions "
                f"{len(self.heads.emotions)} names; expected a weight for each emotion"
            )

    def _check_layers(self) -> None:
        """Raise `ConfigError` if layers are mixed, but no stream has several."""
        for name in ("layer_mix", "layer_norm"):
            value = getattr(self.adapter, name)
            if value != getattr(AdapterConfig, name) and not any(
                encoder.layers for encoder in self.encoders.values()
            ):
                first = next(iter(self.encoders))
                raise ConfigError(
                    f"adapter.{name} = {value!r}: expected a stream with several layers; set "
                    f"encoders.{first}.layers, or leave adapter.{name} out"
                )

    def providers(self) -> dict[str, str]:
        """Installed package and version of each plug-in, as `plugins` records them."""
        used = [("encoder", e.kind, e.provider) for e in self.encoders.values()]
        used.append(("adapter", self.adapter.kind, self.adapter.plugin.provider))
        used += [("loss", name, self.losses.plugin(name).provider) for name in self.losses.extra]
        return {f"{noun}.{name}": provider for noun, name, provider in used if provider}

    def to_table(self) -> dict[str, Any]:
        """The recipe as the TOML table of all its fields."""
        table = to_table(self)
        if self.adapter.kind != "conv":
            own = self.adapter.shared
            table["adapter"] = {k: v for k, v in table["adapter"].items() if k in own}
        return table

    @property
    def vad_encoder(self) -> EncoderConfig | None:
        """The first encoder that also gives arousal, dominance and valence."""
        return next((e for e in self.encoders.values() if e.traits.gives_dimensions), None)

    @property
    def needs_llm(self) -> bool:
        """Whether the LLM is loaded at all."""
        return self.text is not None or bool(self.losses.tasks)

    @property
    def used_llm(self) -> LLMConfig | None:
        """`llm` if a loss or `[text]` needs it, else None."""
        return self.llm if self.needs_llm else None

    def require_text(self) -> TextConfig:
        """Return `text`; raise `ConfigError` if the recipe has none."""
        if self.text is None:
            raise ConfigError(
                f"recipe {self.name!r} has no [text] table, so its model is trained on speech; use "
                "one that has, as `text-llm`"
            )
        return self.text

    def require_llm(self) -> LLMConfig:
        """Return `llm`; raise `ConfigError` if the recipe has none."""
        if self.llm is None:
            raise ConfigError(
                f"recipe {self.name!r} has no [llm] table, so it cannot write text; use one that "
                "has, as `small` or `re-llm`"
            )
        return self.llm

    def require_encoders(self) -> dict[str, EncoderConfig]:
        """Return `encoders`; raise `ConfigError` if the recipe reads text in place of frames."""
        if self.text is not None:
            raise ConfigError(
                f"recipe {self.name!r} reads text and needs no frames; use `rellm train` to make "
                "its run folder and `rellm transcribe` for Whisper's transcripts"
            )
        return self.encoders

    def require_transcriber(self) -> TranscriberSpec:
        """Return `transcriber`; raise `ConfigError` if the recipe has none."""
        if self.transcriber is None:
            raise ConfigError(
                f"recipe {self.name!r} has no [transcriber] table, so no model makes transcripts; "
                "add one, or --set transcriber.model=openai/whisper-tiny.en"
            )
        return self.transcriber
