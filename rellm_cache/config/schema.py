"""Recipes. In: one TOML file. Out: frozen dataclasses.

Reading is strict (`typed_toml`); nothing rewrites a recipe once read.
`docs/recipes.md` documents every field, and a test keeps it complete.
"""

from dataclasses import dataclass, field
from typing import Literal

from rellm_cache.config.qa import QASettings
from rellm_cache.config.specs import EncoderSpec, TranscriberSpec
from rellm_cache.errors import ConfigError


@dataclass(frozen=True)
class EncodersConfig:
    """The two frozen streams; without `emotion` the adapter hears speech frames alone."""

    speech: EncoderSpec
    emotion: EncoderSpec | None = None


@dataclass(frozen=True)
class EmotionConfig:
    """How the emotion stream meets the speech stream."""

    pooling: Literal["frame", "utterance"] = "frame"


@dataclass(frozen=True)
class AdapterConfig:
    """The trained adapter: three convolutions (time ÷ 8) and a residual bottleneck."""

    preset: Literal["reference", "lite"] = "reference"
    width: int = 96
    bottleneck: int = 512
    dropout: float = 0.0
    channel_dropout: float = 0.0
    crop_frames: int = 0
    output_size: int = 0

    def __post_init__(self) -> None:
        require_share("adapter.dropout", self.dropout)
        require_share("adapter.channel_dropout", self.channel_dropout)
        if self.crop_frames < 0:
            raise ConfigError(f"adapter.crop_frames = {self.crop_frames}: expected 0 or more")


@dataclass(frozen=True)
class HeadsConfig:
    """The auxiliary heads over the adapter's frames."""

    emotions: tuple[str, ...] = ("neutral", "happy", "angry", "sad", "surprise")
    dimensions: bool = True
    pooling: Literal["mean", "statistics"] = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_share("heads.dropout", self.dropout)
        if len(set(self.emotions)) < max(2, len(self.emotions)):
            raise ConfigError(
                f"heads.emotions = {list(self.emotions)}: expected two or more different emotions"
            )


@dataclass(frozen=True)
class LossesConfig:
    """Weights of Eq. 10, L = response_lm + emotion_ce + vad; a weight of 0 leaves a loss out."""

    response_lm: float = 1.0
    emotion_ce: float = 1.0
    vad: float = 1.0
    emotion_lm: float = 0.0
    qa_lm: float = 0.0
    response_kl: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    vad_kind: Literal["mse", "ccc"] = "mse"
    kl_temperature: float = 2.0
    kl_top_k: int = 32

    def __post_init__(self) -> None:
        require_share("losses.label_smoothing", self.label_smoothing)
        for name in ("response_lm", "emotion_ce", "vad", "emotion_lm", "qa_lm", "response_kl"):
            if getattr(self, name) < 0:
                raise ConfigError(f"losses.{name} = {getattr(self, name)}: expected 0 or more")
        if isinstance(self.class_weights, tuple) and not all(w > 0 for w in self.class_weights):
            raise ConfigError(
                f"losses.class_weights = {list(self.class_weights)}: expected numbers above 0"
            )
        if self.kl_temperature <= 0:
            raise ConfigError(f"losses.kl_temperature = {self.kl_temperature}: expected above 0")
        if self.kl_top_k < 1:
            raise ConfigError(f"losses.kl_top_k = {self.kl_top_k}: expected 1 or more")

    @property
    def learns_responses(self) -> bool:
        """Whether some loss is over the expected responses."""
        return self.response_lm > 0 or self.response_kl > 0


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank additions to the frozen LLM's projections, which train. The defaults are the
    reference code's."""

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    scope: Literal["speech", "all"] = "speech"

    def __post_init__(self) -> None:
        require_share("llm.lora.dropout", self.dropout)
        if self.rank < 1:
            raise ConfigError(f"llm.lora.rank = {self.rank}: expected 1 or more")
        if self.alpha <= 0:
            raise ConfigError(f"llm.lora.alpha = {self.alpha}: expected more than 0")
        if not self.targets:
            raise ConfigError(
                "llm.lora.targets = []: expected one projection or more; for none, leave out the "
                "table, or --set llm.lora=none"
            )


@dataclass(frozen=True)
class LLMConfig:
    """The frozen chat LLM: which it is and speaks, then how it is run."""

    model: str
    revision: str = ""
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    template: Literal["chatml", "model"] = "chatml"
    pack_length: int = 512
    attention: Literal["auto", "segments", "sdpa", "flex"] = "auto"
    activation_checkpointing: bool = False
    offload_embeddings: bool = False
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.pack_length < 1:
            raise ConfigError(f"llm.pack_length = {self.pack_length}: expected 1 or more")

    def attention_on(self, device_type: str) -> str:
        """The kernel over packed rows on a device: "segments", "sdpa" or "flex"."""
        if self.attention != "auto":
            return self.attention
        return "segments" if device_type == "cpu" else "sdpa"

    @property
    def caches_prefix_kv(self) -> bool:
        """Whether keys and values of prompts are computed once and kept.

        LoRA at all positions changes them at each step, and activation checkpointing takes none.
        """
        lora_elsewhere = self.lora is not None and self.lora.scope != "speech"
        return not (self.activation_checkpointing or lora_elsewhere)

    @property
    def identity(self) -> dict[str, str]:
        """What decides its answers without LoRA; how it is run changes speed and memory."""
        return {
            "model": self.model,
            "revision": self.revision,
            "quantization": self.quantization,
            "template": self.template,
        }


@dataclass(frozen=True)
class PromptsConfig:
    """The paper's prompts; `{speech}`, `{emotion}` and `{transcript}` are filled in."""

    empathetic_system: str = (
        "You are a helpful assistant. Your response should fulfill requests with empathy toward "
        "user's emotion tone."
    )
    plain_system: str = "You are a helpful assistant."
    expected_response: str = (
        "Continue the following sentence that reflects a '{emotion}' emotion tone in a coherent "
        "style: {transcript}"
    )
    alignment: str = (
        "Continue the following sentence based on the conveyed emotion tone in a coherent style: "
        "{speech}"
    )
    answer: str = "{speech}"
    labelled_answer: str = "This is said in a '{emotion}' emotion tone: {speech}"
    recognition: str = (
        "Please identify the emotion tone of the speech provided below. Select from the following "
        "options: neutral, sad, angry, happy, or surprise.\n\nSpeech: {speech}"
    )
    expected_response_tokens: int = 48
    answer_tokens: int = 256
    answer_sentences: int = 0
    stop_after_question: bool = False
    example_tokens: int = 256

    def __post_init__(self) -> None:
        for name, mark in (
            ("expected_response", "{transcript}"),
            ("alignment", "{speech}"),
            ("answer", "{speech}"),
            ("labelled_answer", "{speech}"),
            ("labelled_answer", "{emotion}"),
            ("recognition", "{speech}"),
        ):
            if getattr(self, name).count(mark) != 1:
                raise ConfigError(
                    f"prompts.{name} = {getattr(self, name)!r}: expected {mark} exactly once"
                )
        if self.answer_sentences < 0:
            raise ConfigError(
                f"prompts.answer_sentences = {self.answer_sentences}: expected 0 (any) or more"
            )


@dataclass(frozen=True)
class TextConfig:
    """A model that reads what was said instead of hearing it: nothing of it trains."""

    transcript: Literal["corpus", "whisper"] = "corpus"
    gold_emotion: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation. The defaults are the reference's."""

    epochs: int = 3
    batch_size: int = 2
    gradient_accumulation: int = 8
    micro_batch_tokens: Literal["auto"] | int = 0
    bucket_window: int = 32
    learning_rate: float = 2e-5
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    warmup_steps: int = 200
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_averaging: float = 0.0
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    param_dtype: Literal["fp32", "bf16"] = "fp32"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    best_metric: Literal["loss", "ua", "last"] = "loss"
    checkpoint_minutes: float = 5.0
    init_from: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation", "bucket_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} = {getattr(self, name)}: expected 1 or more")
        if self.micro_batch_tokens != "auto" and self.micro_batch_tokens < 0:
            raise ConfigError(
                f"training.micro_batch_tokens = {self.micro_batch_tokens}: expected 0 or more, or "
                "'auto'"
            )
        if not 0 <= self.weight_averaging <= 1:
            raise ConfigError(
                f"training.weight_averaging = {self.weight_averaging}: expected a share of the "
                "steps, 0 to 1"
            )
        if self.param_dtype == "bf16" and self.precision == "fp32":
            raise ConfigError(
                'training.param_dtype = "bf16" with precision = "fp32": bf16 weights are '
                'multiplied in bf16; set training.precision = "auto", or '
                'training.param_dtype = "fp32"'
            )


@dataclass(frozen=True)
class Recipe:
    """One experiment, complete: the same recipe, data and seed give the same run."""

    name: str
    encoders: EncodersConfig
    seed: int = 1
    emotion: EmotionConfig = field(default_factory=EmotionConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    losses: LossesConfig = field(default_factory=LossesConfig)
    llm: LLMConfig | None = None
    text: TextConfig | None = None
    transcriber: TranscriberSpec | None = None
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    qa: QASettings = field(default_factory=QASettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
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
        if not self.needs_llm and not self.adapter.output_size:
            raise ConfigError(
                f"recipe {self.name!r}: without an LLM nothing fixes the size of the adapter's "
                "output; set adapter.output_size (576 for SmolLM2-135M, 4096 for Qwen-7B)"
            )
        weights = self.losses.class_weights
        if isinstance(weights, tuple) and len(weights) != len(self.heads.emotions):
            raise ConfigError(
                f"losses.class_weights has {len(weights)} numbers, heads.emotions "
                f"{len(self.heads.emotions)} names; expected a weight for each emotion"
            )

    @property
    def needs_llm(self) -> bool:
        """Whether the LLM is loaded at all."""
        losses = self.losses
        answers = losses.learns_responses or losses.emotion_lm > 0 or losses.qa_lm > 0
        return self.text is not None or answers


def require_share(name: str, value: float) -> None:
    """Raise `ConfigError` unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"{name} = {value}: expected 0 or more and less than 1")
