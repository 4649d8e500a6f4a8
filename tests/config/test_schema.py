"""Fields of recipes: accepted values, and errors that name the field."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from rellm_cache.config.recipes import load_recipe, shipped_recipes, to_toml
from rellm_cache.config.schema import PromptsConfig
from rellm_cache.errors import ConfigError


def test_a_recipe_is_read_and_nothing_rewrites_it(recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file))
    assert (recipe.name, recipe.seed, recipe.training.epochs) == ("mine", 1, 3)
    assert list(recipe.encoders) == ["speech"]
    assert recipe.needs_llm
    assert hash(recipe) == hash(load_recipe(str(recipe_file)))
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 2  # type: ignore[misc]  # what the test is about


def test_class_weights_are_a_word_or_a_number_for_each_emotion(recipe_file: Path) -> None:
    def read(*overrides: str) -> object:
        recipe = load_recipe(str(recipe_file), overrides)
        recipe_file.with_name("again.toml").write_text(to_toml(recipe), "utf-8")
        assert load_recipe(str(recipe_file.with_name("again.toml"))) == recipe
        return recipe.losses.class_weights

    assert read() == "none"
    assert read("losses.class_weights=balanced") == "balanced"
    assert read("losses.class_weights=[1, 2.5, 1, 1, 0.5]") == (1.0, 2.5, 1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"mine.toml: training: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("losess.response_lm=0", r"mine.toml: unknown key 'losess'; did you mean 'losses'\?"),
        ("zzz=1", r"mine.toml: unknown key 'zzz'; known keys: name, encoders, seed"),
        (
            "training.table=x",
            r"mine.toml: training: unknown key 'table'; known keys: epochs, batch",
        ),
        ("encoders.speech.command=x", r"encoders: speech: unknown key 'command'; known keys: kind"),
        ("encoders.speech.device=cuda", r"encoders: speech: unknown key 'device'"),
        ("training.epochs=three", r"mine.toml: training: epochs = 'three': expected int"),
        ("training.epochs=2.5", "epochs = 2.5: expected int"),
        ("training.epochs=true", "epochs = True: expected int"),
        ("heads.dimensions=1", "dimensions = 1: expected bool"),
        ("heads.dimensions=True", "dimensions = 'True': expected bool: true or false"),
        (
            "training.epochs=99999999999999999999999",
            "of 77 bits, expected an integer of 63",
        ),
        ("training.learning_rate=nan", "learning_rate: found nan, expected a finite number"),
        ("encoders.speach.layer=2", "key 'kind' is missing; the recipe's own encoders are speech"),
        ("encoders..layer=2", "expected key=value, as in training.epochs=3"),
        ("name=3", "name = 3: expected str"),
        ("heads.emotions=sad", "heads: emotions = 'sad': expected an array"),
        ("heads.emotions=['sad', 3]", "emotions = 3: expected str"),
        ("heads.emotions=['sad', 'sad']", "expected two or more different emotions"),
        ("training=3", "training: found 3, expected a table"),
        ("adapter.preset=huge", "preset = 'huge': expected one of 'reference', 'lite'"),
        ("adapter.dropout=1", "adapter.dropout = 1.0: expected 0 or more and less than 1"),
        ("losses.emotion_ce=-1", "losses.emotion_ce = -1.0: expected 0 or more"),
        ("losses.response_kl=-1", "losses.response_kl = -1.0: expected 0 or more"),
        ("losses.kl_temperature=0", "losses.kl_temperature = 0.0: expected more than 0"),
        ("losses.kl_top_k=0", "losses.kl_top_k = 0: expected 1 or more"),
        ("losses.class_weights=equal", "class_weights = 'equal': expected one of 'none', 'balan"),
        ("losses.class_weights=[1, 'x']", "class_weights = 'x': expected float"),
        ("losses.class_weights=[1, 1]", "class_weights has 2 numbers, heads.emotions 5 names"),
        (
            "losses.class_weights=[1, 1, 1, 0, 1]",
            "class_weights = .*: expected numbers, each more than 0",
        ),
        ("training.batch_size=0", "training.batch_size = 0: expected 1 or more"),
        (
            "training.micro_batch_tokens=-1",
            "micro_batch_tokens = -1: expected 0 or more, or 'auto'",
        ),
        (
            "training.micro_batch_tokens=most",
            "micro_batch_tokens = 'most': expected .*'auto' or int",
        ),
        ("training.optimizer=sgd", "optimizer = 'sgd': expected one of 'adamw', 'adamw8bit'"),
        (
            'training={param_dtype = "bf16", precision = "fp32"}',
            "bf16 weights are multiplied in bf16",
        ),
        ("prompts.answer=hello", r"prompts.answer = 'hello': expected \{speech\} exactly once"),
        ("llm.lora.rank=0", "llm.lora.rank = 0: expected 1 to 65536"),
        ("llm.lora.alpha=0", "llm.lora.alpha = 0.0: expected more than 0"),
        ("llm.lora.dropout=1", "llm.lora.dropout = 1.0: expected 0 or more and less than 1"),
        ("llm.lora.targets=[]", r"llm.lora.targets = \[\]: expected one projection or more"),
        ("llm.lora.scope=text", "scope = 'text': expected one of 'speech', 'all'"),
        ("encoders.emotion.layer=2", "mine.toml: encoders: emotion: key 'kind' is missing"),
        ("encoders.emotoin=none", "encoders.emotoin=none': no such encoder; found speech"),
        (
            "encoders.speech=none",
            r"recipe 'mine': \[encoders\] is empty; expected a table for each",
        ),
        ("encoders.speech.pooling=clip", "pooling = 'clip': expected one of 'frame', 'utterance'"),
        ("encoders.a=3", "encoders: a: found 3, expected a table"),
        ("encoders=3", "encoders: found 3, expected a table"),
        (
            "encoders={'a b' = {kind = 'prosody'}}",
            "encoders.a b: expected a name of letters, digits",
        ),
        ("emotion.pooling=frame", "emotion.pooling -> encoders.emotion.pooling"),
        ("llm=none", r"recipe 'mine': losses.response_lm, .* no \[llm\] table"),
        ("losses.response_lm=0", "recipe 'mine': without an LLM .* set adapter.output_size"),
        ("seed", "--set 'seed': expected key=value"),
        ("name.first=1", "--set 'name.first=1': name is a value, not a table"),
        (
            "encoders.speech.kind=hubert",
            r"mine.toml: encoders.speech.kind: no encoder is named 'hubert'; known are whisper, "
            r"wav2vec2-emotion, transformers-audio, prosody\. A package offers .* 'rellm.encoders'",
        ),
        ("adapter.kind=konv", r"adapter.kind: no adapter is named 'konv'; did you mean 'conv'\?"),
        ("losses.emotion_se=1", r"losses.emotion_se: no loss .*; did you mean 'emotion_ce'\?"),
        ("losses.options.vad={a = 1}", "losses.options.vad: expected the weight of a plug-in's"),
        ("adapter.options.queries=3", "adapter.options: 'conv' has no options; leave them out"),
        ("encoders.speech.model=", "encoder 'whisper': found model = '', expected a hub id"),
        (
            "encoders.speech={kind = 'prosody', model = 'm'}",
            "encoder 'prosody': found model = 'm', expected no model",
        ),
        ("encoders.speech.window=20s", "window = '20s' is not known; expected '30s' or 'clip'"),
        ("encoders.speech.normalisation=x", "normalisation = 'x' is not known; expected 'log-mel'"),
        ("encoders.speech.sampling_rate=8000", "sampling_rate = 8000: expected 16000"),
        ("encoders.speech.dtype=bfloat16", "dtype = 'bfloat16': expected one of 'float16'"),
    ],
)
def test_a_wrong_field_is_refused_by_name(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(recipe_file), [override])


def test_text_needs_an_llm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[text\] is read by an LLM, but there is no \[llm\]"):
        load_recipe("text-llm", ["llm=none"])


PROTOCOL = (  # shared by the paper and BLSP-Emo, to the letter
    "Please identify the emotion tone of the speech provided below. Select from the following "
    "options: neutral, sad, angry, happy, or surprise.\n\nSpeech: {speech}"
)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_recognition_prompt_of_a_shipped_recipe_is_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.prompts.recognition_of(recipe.heads.emotions) == PROTOCOL


@pytest.mark.parametrize(
    ("emotions", "options"),
    [
        (("neutral", "happy", "angry", "sad"), "neutral, sad, angry, or happy"),
        (("happy", "sad"), "sad or happy"),
        (("fear", "surprise", "disgust"), "surprise, fear, or disgust"),
        (("disgust", "calm"), "disgust or calm"),
    ],
)
def test_the_recognition_prompt_names_the_emotions_of_the_heads(
    emotions: tuple[str, ...], options: str
) -> None:
    assert PromptsConfig().recognition_of(emotions) == PROTOCOL.replace(
        "neutral, sad, angry, happy, or surprise", options
    )
    own = PromptsConfig(recognition="Which emotion? {speech}")
    assert own.recognition_of(emotions) == own.recognition
