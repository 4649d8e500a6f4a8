"""Model folders as they are found: each damage is served, or an error that names what to do."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_chat, load_llm
from rellm_cache.utils.console import say_once
from rellm_cache.utils.model_files import weights_digest

# As the published templates of Gemma 2 and Mistral 7B Instruct v0.2, with ChatML's tokens.
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'assistant' %}{% set role = 'model' %}
{%- else %}{% set role = message['role'] %}{% endif %}
{{- '<|im_start|>' + role + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>model\\n' }}{% endif %}"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{%- endfor %}"""
DROPS = """\
{%- for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>
{%- endfor %}"""
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = """\
{% set own = namespace(text='a') %}
{% for i in range(60) %}{% set own.text = own.text + own.text %}{% endfor %}"""

Damage = Callable[[Path], object]


@pytest.fixture
def folder(llm_folder: Path, tmp_path: Path) -> Path:
    say_once.cache_clear()
    return Path(shutil.copytree(llm_folder, tmp_path / "chat"))


def load(folder: Path, quantization: Any = "none", template: Any = "model") -> FrozenLLM:
    config = LLMConfig(str(folder), quantization=quantization, template=template)
    return load_llm(config, torch.device("cpu"))


def write(name: str, content: str, encoding: str = "utf-8") -> Damage:
    return lambda folder: (folder / name).write_text(content, encoding)


def change(name: str, **fields: Any) -> Damage:
    """Change fields of a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text("utf-8")) | fields
        (folder / name).write_text(json.dumps(content))

    return damage


def with_mark(name: str) -> Damage:
    """Put a byte order mark before a file."""
    return lambda folder: (folder / name).write_text((folder / name).read_text(), "utf-8-sig")


def sharded(index: str) -> Damage:
    """Weights in one shard, and the text of their index."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(index)

    return damage


def beside(index: str) -> Damage:
    """All weights in one file, and an index of others."""
    return write("model.safetensors.index.json", index)


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def not_a_number(name: str) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[name][3] = float("nan")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def more_tokens(folder: Path) -> None:
    """A tokenizer with a token more than the model, in ordinary words."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["added_tokens"].append(
        content["added_tokens"][0] | {"id": 259, "content": "zz", "special": False}
    )
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (GEMMA, "<|im_start|>user\nBe kind.\n\nHi there<|im_end|>\n<|im_start|>model\n"),
        (MISTRAL, "[INST] Be kind.\n\nHi there [/INST]"),
        (DROPS, "<|im_start|>user: Be kind.\n\nHi there<|im_end|>"),
    ],
    ids=["Gemma", "Mistral", "drops the system text"],
)
def test_a_template_without_a_system_role_is_served(
    folder: Path, capsys: pytest.CaptureFixture[str], template: str, prompt: str
) -> None:
    (folder / "chat_template.jinja").write_text(template)
    llm = load(folder)
    ids = llm.chat.text_prompt("Be kind.", "Hi there")
    assert llm.chat.tokenizer.decode(ids).lstrip("\n") == prompt
    assert llm.chat.text_prompt("", "Hi there") != ids
    parts = llm.chat.speech_prompt("Be kind.", "Hi {speech}")
    assert parts.before + llm.chat.ids("there") + parts.after == ids
    assert llm.chat.tokenizer.convert_ids_to_tokens(llm.chat.stop_ids) == ["<|im_end|>"]
    assert continue_prompts(llm, [llm.embed(ids)], 3)[0].early_stop
    told = f"{folder}: the chat template has no system role; the system text is put before the "
    assert capsys.readouterr().err == f"{told}user's\n"  # once


def test_outer_spaces_that_a_template_removes_are_no_error(folder: Path) -> None:
    content = (folder / "chat_template.jinja").read_text()
    trimmed = content.replace("message.content", "message.content | trim")
    (folder / "chat_template.jinja").write_text(trimmed)
    chat = load_chat(LLMConfig(str(folder), template="model"))
    assert chat.text_prompt("Be kind. ", " Hi\n") == chat.text_prompt("Be kind.", "Hi")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends a response with ''"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", r"ends a response with '\\n'"),
        ("{% for m in messages %}{{ m.content }} END{% endfor %}", "ends a response with ' END"),
        ("{% for m in messages %}{{ m.content }}{% endfo %}", r"fails \(TemplateSyntaxError: "),
        ("{{ missing.name }}", r"template fails \(UndefinedError: 'missing' is undefined\)"),
        ("{{ messages[9].content.x }}", r"template fails \(UndefinedError"),
        ("{{ raise_exception('No') }}", r"template fails \(TemplateError: No\)"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "ends a response with ''"),
        ("", "tokenizer has no chat template"),
        (NESTED, r"template fails \(found more than 200,000 steps, expected an end\)"),
        (DOUBLING, r"template fails \(found a text that needs 0\.\d GB"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"template fails \(RecursionError"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(folder: Path, template: str, message: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=rf"chat: .*{message}.*; correct chat_template\.jinja"):
        load(folder)
    load_chat(LLMConfig(str(folder), template="chatml"))


def test_a_template_that_changes_the_words_is_refused(folder: Path) -> None:
    template = "{% for m in messages %}{{ m.content[:9] }}<|im_end|>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template.replace("[:9]", " | replace('i', 'j')"))
    with pytest.raises(ConfigError, match="changes or leaves out the system, user or model text"):
        load(folder).chat.text_prompt("Be kind.", "Hi")


DAMAGES: list[tuple[Damage, str]] = [
    (change("config.json", vocab_size=200), r"chat: found .*\[259, 32\], expected \[200, 32\] by"),
    (change("config.json", vocab_size=400), r"chat: found .*\[259, 32\], expected \[400, 32\] by"),
    (change("config.json", hidden_size=64), r"expected \[259, 64\] by .*as for 20 weights"),
    (change("config.json", num_hidden_layers=1), "without model.layers.1.input_layernorm.weight"),
    (change("config.json", num_hidden_layers=3), r"checkpoint lacks \['model.layers.2"),
    (change("config.json", vocab_size="x"), "'vocab_size' expected int, got str"),
    (change("config.json", num_attention_heads=3), "not a multiple of the number of attention"),
    (change("config.json", model_type="new"), "model type `new`"),
    (change("config.json", dtype="float9"), "cannot load this model folder"),
    (
        change("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"chat/config.json: the weights are quantized already \(gptq\), expected 'none'",
    ),
    (change("config.json", quantization_config=[1]), r"quantized already \(None\), expected 'none"),
    (change("tokenizer_config.json", model_max_length=""), "cannot load this model folder"),
    (change("tokenizer_config.json", eos_token="</s>"), r"end token '</s>' has id 259, .* has 259"),
    (with_mark("config.json"), r"chat/config\.json: found a byte order mark"),
    (with_mark("tokenizer_config.json"), r"chat/tokenizer_config\.json: found a byte order mark"),
    (with_mark("tokenizer.json"), r"chat/tokenizer\.json: found a byte order mark"),
    (write("config.json", "[]"), r"config\.json: expected a JSON object, found \[\]"),
    (write("config.json", "[" * 100_000), r"config\.json: not JSON \(brackets are nested too deep"),
    (write("tokenizer_config.json", "{"), r"tokenizer_config\.json: not JSON"),
    (write("tokenizer_config.json", "[]"), r"tokenizer_config\.json: expected a JSON object"),
    (write("tokenizer.json", "{}"), "cannot load this model folder"),
    (write("generation_config.json", "[]"), r"generation_config\.json: expected a JSON object"),
    (write("chat_template.jinja", "\xe9", "latin-1"), "cannot load this model folder .*UnicodeDec"),
    (sharded(""), r"index\.json: not JSON"),
    (sharded("{}"), r"index\.json: found weight_map = None, expected an object"),
    (sharded('{"weight_map": {}}'), r"index\.json: found weight_map = \{\}, expected"),
    (sharded('{"weight_map": ["a"]}'), r"index\.json: found weight_map = \["),
    (sharded('{"weight_map": {"lm_head.weight": "model-1.sa'), r"index\.json: not JSON"),
    (sharded('{"weight_map": {"lm_head.weight": 3}}'), "3 is missing; model.safetensors.index"),
    (sharded('{"weight_map": {"a": "../other.safetensors"}}'), "expected a name in this folder"),
    (change("config.json", transformers_weights="x.safetensors"), "found transformers_weights = "),
    (write("adapter_config.json", "{}"), r"adapter_config\.json: found an adapter, .* merge it"),
    (pipe("config.json"), r"config\.json: found a pipe, expected a regular file; copy"),
    (pipe("tokenizer.json"), r"tokenizer\.json: found a pipe"),
    (pipe("chat_template.jinja"), r"chat_template\.jinja: found a pipe"),
    (pipe("model.safetensors"), r"model\.safetensors: found a pipe"),
    (link("tokenizer_config.json", "tokenizer_config.json"), "found a loop of links, expected a"),
    (link("generation_config.json", "gone"), "found a link to 'gone', which does not exist"),
    (link("config.json", "/dev/zero"), r"config\.json: found a device, expected a regular file"),
    (not_a_number("model.norm.weight"), "chat: weight model.norm.weight has NaN or infinite val"),
    (not_a_number("model.embed_tokens.weight"), "weight model.embed_tokens.weight has NaN"),
    (not_a_number("model.layers.1.mlp.up_proj.weight"), "weight model.layers.1.mlp.up_proj.weight"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_folder_is_named(folder: Path, damage: Damage, message: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_nan_is_found_in_quantized_weights(folder: Path, quantization: str) -> None:
    not_a_number("model.layers.1.mlp.up_proj.weight")(folder)
    with pytest.raises(ConfigError, match=r"weight model.layers.1.mlp.up_proj.weight has NaN"):
        load(folder, quantization)


def test_one_nan_is_found_in_8_bit_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][5, 7] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"weight model.layers.0.mlp.up_proj.weight has NaN"):
        load(folder, "int8")


def test_the_weights_that_are_loaded_are_those_of_the_digest(folder: Path) -> None:
    """As transformers: an index beside `model.safetensors` is not read."""
    before, digest = load(folder), weights_digest(folder)
    weights = load_file(folder / "model.safetensors")
    other = {name: tensor + 1 for name, tensor in weights.items()}
    save_file(other, folder / "other.safetensors", {"format": "pt"})
    beside(json.dumps({"weight_map": dict.fromkeys(weights, "other.safetensors")}))(folder)
    assert weights_digest(folder) == digest
    after = load(folder)
    for name, weight in before.model.named_parameters():
        assert torch.equal(weight, after.model.get_parameter(name)), name


def test_quantized_weights_need_their_own_quantization(folder: Path) -> None:
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=packing, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    for other in ("none", "int8"):
        with pytest.raises(ConfigError, match=r"quantized already \(nf4\), .* llm.quantization ="):
            load(folder, other)
    llm = load(folder, "nf4")
    assert continue_prompts(llm, [llm.embed(llm.chat.ids("Hello"))], 3)[0].text is not None


def test_tokens_that_the_model_lacks_are_named_where_they_occur(folder: Path) -> None:
    more_tokens(folder)
    llm = load(folder)
    llm.embed(llm.chat.ids("words without it"))
    for use in (llm.embed, lambda ids: llm.segment(answer=ids)):
        with pytest.raises(ConfigError, match=r"gives token 259 \('zz'\), but the model has 259"):
            use(llm.chat.ids("buzz"))


def test_an_end_token_of_the_model_alone_stops_answers_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "generation_config.json"):
        change(name, eos_token_id=[5, 7])(folder)
    llm = load(folder)
    assert {5, 7, *llm.chat.tokenizer.convert_tokens_to_ids(["<|im_end|>"])} == set(
        llm.chat.stop_ids
    )
    load(folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "config.json ends a text with" in said
    change("generation_config.json", eos_token_id=llm.chat.stop_ids[-1])(folder)
    assert load(folder).chat.more_stops == frozenset()


@pytest.mark.parametrize("ends", [[[], {}], "</s>", [2.0], [True], {"a": 1}])
def test_ends_that_are_no_numbers_are_named(folder: Path, ends: Any) -> None:
    change("generation_config.json", eos_token_id=ends)(folder)
    with pytest.raises(ConfigError, match=r"generation_config\.json.*eos_token_id"):
        load(folder)


def test_ends_that_the_model_does_not_have_are_left_out(folder: Path) -> None:
    change("config.json", eos_token_id=5)(folder)
    change("generation_config.json", eos_token_id=[-1, 10**12, 7])(folder)
    assert load(folder).chat.more_stops == frozenset({5, 7})


def test_a_byte_order_mark_of_a_template_is_left_out(folder: Path) -> None:
    before = load(folder).chat.text_prompt("Be kind.", "Hi")
    with_mark("chat_template.jinja")(folder)
    assert load(folder).chat.text_prompt("Be kind.", "Hi") == before
