"""Loading of recipes: shipped ones, TOML files, `extends`, `--set`, old field names."""

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from old_recipes import EDITION_1, with_new_names

from rellm_cache.config.recipes import identity_toml, load_recipe, shipped_recipes, to_toml
from rellm_cache.config.schema import EncoderConfig, LoraConfig
from rellm_cache.errors import ConfigError
from rellm_cache.runs.weights import run_recipe

OLD_RUNS = EDITION_1 / "runs"


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_are_printed_whole(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "again.toml").write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(tmp_path / "again.toml")) == recipe


def test_any_text_survives_printing(recipe_file: Path) -> None:
    wording = 'Say "\U0001f600 \\ \t \n" \u2028 é: {speech}'
    recipe = load_recipe(str(recipe_file))
    recipe = replace(recipe, prompts=replace(recipe.prompts, alignment=wording))
    recipe_file.write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(recipe_file)).prompts.alignment == wording


def test_overrides_change_single_fields(recipe_file: Path) -> None:
    recipe = load_recipe(
        str(recipe_file),
        [
            "seed=7",
            "training.learning_rate=1",
            "heads.emotions=['sad', 'happy']",
            "training.schedule=cosine",
            "encoders.emotion.kind=prosody",
        ],
    )
    assert (recipe.seed, recipe.training.learning_rate) == (7, 1.0)
    assert recipe.heads.emotions == ("sad", "happy")
    assert recipe.training.schedule == "cosine"
    assert recipe.encoders["emotion"] == EncoderConfig(kind="prosody")


def test_none_leaves_a_part_out() -> None:
    overrides = ["llm=none", "losses.response_lm=0", "losses.emotion_lm=0", "encoders.emotion=none"]
    recipe = load_recipe("small", [*overrides, "adapter.output_size=64"])
    assert recipe.llm is None
    assert list(recipe.encoders) == ["speech"]
    assert not recipe.needs_llm


def test_no_recipe_no_toml_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny: no such recipe; shipped are .*heads, .*small"):
        load_recipe("tiny")
    (tmp_path / "a.toml").write_text("name = ?")
    with pytest.raises(ConfigError, match=r"a.toml: not valid TOML: .* line 1"):
        load_recipe(str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"a.toml:1: not UTF-8 text"):
        load_recipe(str(tmp_path / "a.toml"))


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text(
        'extends = "small"\nname = "bare"\n[encoders]\nemotion = "none"\n'
    )
    (tmp_path / "longer.toml").write_text('extends = "bare.toml"\n[training]\nepochs = 9\n')
    small, longer = load_recipe("small"), load_recipe(str(tmp_path / "longer.toml"))
    assert longer.encoders == {"speech": small.encoders["speech"]}
    assert longer.training == replace(small.training, epochs=9)
    assert (longer.name, longer.llm) == ("bare", small.llm)
    assert load_recipe(str(tmp_path / "longer.toml"), ["training.epochs=2"]).training.epochs == 2
    assert "extends" not in to_toml(longer)


OWN_TRAINING = {"re-llm-code", "qwen-small"}  # recipes with another LLM than their base


@pytest.mark.parametrize("name", sorted(shipped_recipes().keys() - OWN_TRAINING))
def test_the_base_of_a_recipe_can_be_another(name: str) -> None:
    variant, other = load_recipe(name, base="small"), load_recipe("small")
    assert variant.llm == other.llm
    assert variant.training == other.training
    paper = load_recipe(name)
    assert variant.text == paper.text
    if 'extends = "re-llm"' in shipped_recipes()[name]:
        assert list(variant.encoders) == list(paper.encoders)
        assert variant.heads.dimensions == paper.heads.dimensions


def test_the_recipe_of_the_reference_code() -> None:
    paper, code = load_recipe("re-llm"), load_recipe("re-llm-code")
    assert code.encoders["emotion"] == replace(paper.encoders["emotion"], pooling="utterance")
    assert code.heads == replace(paper.heads, freeze=("emotion",))
    assert (code.losses, code.adapter, code.prompts) == (paper.losses, paper.adapter, paper.prompts)
    assert code.llm is not None
    assert code.llm.lora == LoraConfig(rank=16, alpha=16.0, dropout=0.05, scope="speech")
    training = code.training
    assert (training.averaging, training.init_parts) == ("micro_batch", ("emotion", "lora"))
    assert (training.batch_size, training.gradient_accumulation) == (2, 8)
    assert training.micro_batch_tokens == 0  # the draws of two clips go through the model


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ConfigError, match=r"a\.toml: extends itself, by way of .*b\.toml"):
        load_recipe(str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_text("extends = 3\n")
    with pytest.raises(ConfigError, match="extends = 3: expected the name or path of a recipe"):
        load_recipe(str(tmp_path / "a.toml"))


def test_old_names_in_a_file_and_in_overrides_are_listed_at_once(tmp_path: Path) -> None:
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text('extends = "small"\n[losses]\ndimension = 0\n[training]\nclip = 1\n')
    above.write_text('extends = "below.toml"\n[encoders.speech]\nweights = ""\n')
    with pytest.raises(ConfigError) as refused:
        load_recipe(str(above), ["seed=2", 'llm.embeddings="host"'])
    assert str(refused.value).splitlines() == [
        f"{below}: fields have new names; write the one on the right:",
        "  losses.dimension -> losses.vad",
        "  training.clip -> training.max_grad_norm",
        f"{above}: a field has a new name; write the one on the right:",
        "  encoders.speech.weights -> encoders.speech.weights_sha256",
        "--set: a field has a new name; write the one on the right:",
        '  llm.embeddings -> llm.offload_embeddings (true for "host", false for "device")',
    ]


def test_a_run_of_the_first_edition_is_refused_with_every_new_name() -> None:
    run = OLD_RUNS / "heads-old-fields"
    with pytest.raises(ConfigError) as refused:
        run_recipe(run)
    message = str(refused.value)
    assert message.startswith(f"{run / 'recipe.toml'}: fields have new names")
    old = {line.split()[0] for line in message.splitlines()[1:]}
    assert old == {
        "encoders.speech.weights",
        "encoders.emotion.weights",
        "emotion.pooling",
        *(f"losses.{n}" for n in ("response", "category", "dimension", "recognition", "question")),
        "losses.dimension_kind",
        *(f"llm.{n}" for n in ("row_tokens", "checkpoint_activations", "embeddings")),
        *(f"training.{n}" for n in ("accumulation", "tokens_per_step", "bucket_batches", "clip")),
        *(f"training.{n}" for n in ("average", "optimiser", "weights", "select", "start_from")),
    }


@pytest.mark.parametrize("run", ["heads", "heads-old-fields", "text-old-fields"])
def test_with_the_new_names_a_recipe_of_the_first_edition_loads(run: str, tmp_path: Path) -> None:
    text = with_new_names((OLD_RUNS / run / "recipe.toml").read_text("utf-8"))
    (tmp_path / "recipe.toml").write_text(text, "utf-8")
    recipe, table = load_recipe(str(tmp_path / "recipe.toml")), tomllib.loads(text)
    assert recipe.name == table["name"]
    assert recipe.training.max_grad_norm == table["training"]["max_grad_norm"]


HOSTILE_VALUES = (
    "nan", "-1", "1e400", "9" * 400, "9" * 5000, f"0x{'F' * 9000}", "[" * 3000, "[[1]]", "{a = 1}",
    '"none"', '"\\u0000"', "true", "1979-05-27", f'"{"z" * 300}"',
)  # fmt: skip
HOSTILE_LINES = (
    "encoders = 1", "encoders = [1]", "losses = 1", "llm = [1]", "extends = 3", "extends = ['a']",
    f"extends = '{'z' * 300}'", "[[llm]]", "adapter = 3", "\ufeff", "\0", "a.b.c = 1",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_recipe_is_read_or_refused_with_its_name(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    messages: list[str] = []
    path = tmp_path / "damaged.toml"
    changes = [(), ("encoders.x=none",), (f"llm.model={'[' * 2000}",), ("losses=3", "losses.vad=1")]
    for text in shipped_recipes().values():
        lines = text.splitlines()
        number = random.randrange(len(lines))
        name, equals, _ = lines[number].partition("=")
        value = random.choice(HOSTILE_VALUES)
        lines[number] = f"{name}{equals} {value}" if equals else random.choice(HOSTILE_LINES)
        path.write_text("\n".join(lines), random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
        try:
            load_recipe(str(path), random.choice(changes))
        except ConfigError as error:
            messages.append(str(error))
    assert any(message.startswith(str(path)) for message in messages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", r"a\.toml: not valid TOML: .*; correct it there"),
        (f"seed = {'[' * 3000}", "not valid TOML: brackets are nested too deep"),
        (f"seed = 0x{'F' * 9000}", "not valid TOML: an integer of 36000 bits"),
        (f"seed = {'9' * 5000}", "not valid TOML: Exceeds the limit"),
        ("name = 'x'\nname = 'y'", "not valid TOML: Cannot overwrite a value"),
        ("\0", "not valid TOML"),
    ],
)
def test_text_that_is_no_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tmp_path / "a.toml"))


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "heads"\nname = "mine"\n', "utf-8-sig")
    assert load_recipe(str(tmp_path / "a.toml")).name == "mine"


@pytest.mark.parametrize(
    ("run", "recorded"),
    [
        ("heads", "4cd20b3758dae64f"),
        ("heads-old-fields", "5fc6c0b95be43ca3"),
        ("text-old-fields", "e20aa7ea094bedb3"),
    ],
)
def test_identity_of_old_runs_never_changes(tmp_path: Path, run: str, recorded: str) -> None:
    """Recorded when `recipe.toml` still had the form of the identity; answers depend on it."""
    (tmp_path / "r.toml").write_text(with_new_names((OLD_RUNS / run / "recipe.toml").read_text()))
    recipe = load_recipe(str(tmp_path / "r.toml"))
    identity = identity_toml(recipe)
    assert hashlib.sha256(identity.encode()).hexdigest()[:16] == recorded
    (tmp_path / "identity.toml").write_text(identity)
    assert load_recipe(str(tmp_path / "identity.toml")) == recipe  # as old runs have it


def test_layers_take_the_place_of_a_layer_and_the_other_way_round(recipe_file: Path) -> None:
    assert load_recipe("heads").encoders["speech"].layer == 2
    recipe = load_recipe("heads", ["encoders.speech.layers=[1, 2]"])
    assert (recipe.encoders["speech"].layer, recipe.encoders["speech"].layers) == (-1, (1, 2))
    again = load_recipe(recipe, {"encoders.speech.layer": 3})
    assert (again.encoders["speech"].layer, again.encoders["speech"].layers) == (3, ())
    every = load_recipe("heads", ["encoders.speech.layers=all"])
    assert every.encoders["speech"].layers == "all"
    recipe_file.write_text(to_toml(every), "utf-8")
    assert load_recipe(str(recipe_file)) == every
    with pytest.raises(ConfigError, match=r"found layer = 2 and layers = \[1, 2\]"):
        load_recipe("heads", ["encoders.speech.layer=2", "encoders.speech.layers=[1, 2]"])
    with pytest.raises(ConfigError, match="'prosody': found layers, but it gives frames of one"):
        load_recipe("heads", ["encoders.emotion.layers=[1, 2]"])


def test_the_identity_of_a_recipe_has_no_layers_unless_they_are_set() -> None:
    recipe = load_recipe("heads")
    assert "layers" in to_toml(recipe)
    assert "layers" not in identity_toml(recipe)
    assert "layers" in identity_toml(load_recipe("heads", ["encoders.speech.layers=all"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "e-llm"', r"mine\.toml: extends = 'e-llm': no such recipe; shipped are "),
        ('extends = "heads"\n[heads]\nemotions = []', r"mine\.toml: heads\.emotions = \[\]: exp"),
        ('extends = "heads"\n[training]\nepochs = -1', r"mine\.toml: training\.epochs = -1: exp"),
    ],
)
def test_every_error_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("changes", [("llm.quantization=none",), {"llm": {"quantization": "none"}}])
def test_a_change_of_an_llm_that_the_recipe_lacks_is_explained(
    changes: tuple[str, ...] | dict[str, object],
) -> None:
    message = r"the recipe has no LLM, so llm.quantization changes nothing; .* --set llm.model="
    with pytest.raises(ConfigError, match=message):
        load_recipe("heads", changes)
    with pytest.raises(ConfigError, match=message):
        load_recipe(load_recipe("heads"), changes)
    assert load_recipe("heads", ("llm.model=tiny", "llm.quantization=none")).llm is not None
