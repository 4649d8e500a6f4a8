"""An imported Qwen v1 gives the logits of a plain implementation, or is refused."""

import base64
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from rellm_cache.cli import main
from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.importers.qwen_v1 import import_qwen
from rellm_cache.llm import loading
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.loading import load_llm

Weights = dict[str, Tensor]
CONFIG: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
    "model_type": "qwen",
    "vocab_size": 640,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "intermediate_size": 96,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 128,
    "max_position_embeddings": 4096,
    "no_bias": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}


def random_weights(config: dict[str, Any]) -> Weights:
    torch.manual_seed(5)
    size, inner, vocabulary = (
        config["hidden_size"],
        config["intermediate_size"] // 2,
        config["vocab_size"],
    )

    def norm() -> Tensor:
        return 1 + 0.3 * torch.randn(size)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape) * (0.5 if len(shape) == 1 else 1.5 / math.sqrt(shape[1]))

    weights = {"transformer.wte.weight": matrix(vocabulary, size)}
    for layer in range(config["num_hidden_layers"]):
        block = f"transformer.h.{layer}"
        weights |= {
            f"{block}.ln_1.weight": norm(),
            f"{block}.attn.c_attn.weight": matrix(3 * size, size),
            f"{block}.attn.c_attn.bias": matrix(3 * size),
            f"{block}.attn.c_proj.weight": matrix(size, size),
            f"{block}.ln_2.weight": norm(),
            f"{block}.mlp.w1.weight": matrix(inner, size),
            f"{block}.mlp.w2.weight": matrix(inner, size),
            f"{block}.mlp.c_proj.weight": matrix(size, inner),
        }
    return weights | {
        "transformer.ln_f.weight": norm(),
        "lm_head.weight": matrix(vocabulary, size),
    }


def qwen_v1_logits(weights: Weights, config: dict[str, Any], ids: list[int]) -> Tensor:
    """(T, V): Qwen v1 in float32, written from its description and nothing else."""
    heads, head = config["num_attention_heads"], config["kv_channels"]
    length = len(ids)
    frequencies = config["rotary_emb_base"] ** (-torch.arange(0, head, 2) / head)  # (head / 2,)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)  # (T, head)

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return (
            x
            * torch.rsqrt(x.square().mean(-1, keepdim=True) + config["layer_norm_epsilon"])
            * weight
        )

    def rotated(x: Tensor) -> Tensor:  # (T, heads, head)
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return x * angles.cos()[:, None] + turned * angles.sin()[:, None]

    hidden = weights["transformer.wte.weight"][ids]  # (T, H)
    for layer in range(config["num_hidden_layers"]):
        block = {
            name.split(".", 3)[3]: tensor
            for name, tensor in weights.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        x = normed(hidden, block["ln_1.weight"])
        fused = x @ block["attn.c_attn.weight"].T + block["attn.c_attn.bias"]  # (T, 3 H)
        q, k, v = (part.view(length, heads, head) for part in fused.chunk(3, dim=-1))
        scores = torch.einsum("qhd,khd->hqk", rotated(q), rotated(k)) / math.sqrt(head)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, -1)
        hidden = hidden + mixed @ block["attn.c_proj.weight"].T
        x = normed(hidden, block["ln_2.weight"])
        gated = (x @ block["mlp.w1.weight"].T) * F.silu(x @ block["mlp.w2.weight"].T)
        hidden = hidden + gated @ block["mlp.c_proj.weight"].T
    return normed(hidden, weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T


def write_ranks(folder: Path) -> None:
    """Write `qwen.tiktoken` with 256 bytes and 44 pairs of letters."""
    pairs = [bytes([a, b]) for a in b"etaoin" for b in b"etaoinsr"][:44]
    tokens = [*(bytes([byte]) for byte in range(256)), *pairs]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))


MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """A Qwen v1 folder: `kind` of its files, how many, weights and configuration changed."""

    def make(
        kind: str = "safetensors",
        shards: int = 3,
        weights: Weights | None = None,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / "v1"
        folder.mkdir()
        config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        generation = {"chat_format": "chatml", "eos_token_id": 300, "top_p": 0.8}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        (folder / "LICENSE").write_text("Tongyi Qianwen")
        write_ranks(folder)
        state = random_weights(CONFIG) if weights is None else weights
        stem, save = (
            ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
        )
        names = list(state)
        places = {}
        for index in range(shards):
            file = (
                f"{stem}-{index + 1:05}-of-{shards:05}.{kind}" if shards > 1 else f"{stem}.{kind}"
            )
            own = names[index * len(names) // shards : (index + 1) * len(names) // shards]
            save({name: state[name] for name in own}, folder / file)
            places |= dict.fromkeys(own, file)
        if shards > 1:
            index_file = folder / f"{stem}.{kind}.index.json"
            index_file.write_text(json.dumps({"weight_map": places}))
        return folder

    return make


@pytest.mark.parametrize(("kind", "shards"), [("safetensors", 3), ("bin", 4), ("bin", 1)])
def test_logits_are_those_of_qwen_v1(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: str, shards: int
) -> None:
    report = import_qwen(make_checkpoint(kind, shards), tmp_path / "qwen2", shard_bytes=60_000)
    assert len(list((tmp_path / "qwen2").glob("model-*.safetensors"))) > 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qwen2", "v1"]
    weights = random_weights(CONFIG)
    assert report.parameters == sum(t.numel() for t in weights.values())
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "qwen2", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert model.config.model_type == "qwen2"
    assert model.config.max_position_embeddings == 128  # seq_length
    ids = torch.randint(0, 640, (100,)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    expected = qwen_v1_logits(weights, CONFIG, ids)
    assert expected.std() > 0.5  # a model that tells tokens apart
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_other_bases_and_bfloat16(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in random_weights(CONFIG).items()}
    folder = make_checkpoint(weights=weights, rotary_emb_base=500.0, layer_norm_epsilon=1e-3)
    import_qwen(folder, tmp_path / "qwen2")
    assert (tmp_path / "qwen2" / "model.safetensors").is_file()  # small enough for one
    stored = json.loads((tmp_path / "qwen2" / "config.json").read_text())
    assert stored["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "qwen2", dtype=torch.float32)
    ids = list(range(40))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    changed = CONFIG | {"rotary_emb_base": 500.0, "layer_norm_epsilon": 1e-3}
    expected = qwen_v1_logits({n: t.float() for n, t in weights.items()}, changed, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_the_frozen_llm_refuses_longer_rows(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder = make_checkpoint()
    config = LLMConfig(str(folder), quantization="none")
    with pytest.raises(ConfigError, match=r"`rellm import qwen .*v1 --out FOLDER`"):
        load_llm(config, torch.device("cpu"))
    import_qwen(folder, tmp_path / "qwen2")
    config = LLMConfig(str(tmp_path / "qwen2"), quantization="none")
    llm = load_llm(config, torch.device("cpu"))
    prompt = llm.chat.speech_prompt("Be kind.", "{speech}")
    assert llm.chat.tokenizer.decode(prompt.after) == "<|im_end|>\n<|im_start|>assistant\n"
    assert continue_prompts(llm, [torch.randn(100, 32)], max_new_tokens=28)
    with pytest.raises(ConfigError, match=r"129 positions, but .* supports 128"):
        continue_prompts(llm, [torch.randn(100, 32)], max_new_tokens=29)


def test_a_chat_model_stops_at_the_end_of_its_turn(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    folder = make_checkpoint()
    import_qwen(folder, tmp_path / "chat")
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"chat_format": "raw"}))
    import_qwen(folder, tmp_path / "base")
    chat, base = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("chat", "base"))
    assert (chat.eos_token, base.eos_token) == ("<|im_end|>", "<|endoftext|>")
    first = 300  # after the ranks
    assert chat.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [
        300,
        301,
        302,
    ]
    assert chat.convert_tokens_to_ids("<|extra_204|>") == first + 3 + 204
    stored = json.loads((tmp_path / "chat" / "generation_config.json").read_text())
    assert stored["eos_token_id"] == [302, 300]
    assert "top_p" not in stored
    assert (tmp_path / "chat" / "LICENSE").read_text() == "Tongyi Qianwen"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, r"config\.json: model_type = 'llama'; expected 'qwen'"),
        ({"no_bias": False}, r"no_bias = False, expected True: no Qwen2 model equals"),
        ({"rotary_pct": 0.25}, r"rotary_pct = 0\.25, expected 1\.0"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings = True, expected False"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "the weights are quantized .*gptq.*; expected a checkpoint in full precision",
        ),
        ({"seq_length": None}, "seq_length = None, expected a number above 0"),
        ({"kv_channels": 16}, "4 heads of size 16, hidden_size 32"),
        ({"vocab_size": 500}, r"300 tokens and 208 special tokens, but vocab_size is 500"),
        ({"num_hidden_layers": 4}, r"lack transformer\.h\.3\.attn\.c_attn\.bias, .* and 5 more"),
        (
            {"num_hidden_layers": 2},
            r"hold transformer\.h\.2\.attn\.c_attn\.bias, .* this model",
        ),
        (
            {"intermediate_size": 128},
            r"mlp\.w1\.weight: found torch\.float32 \(48, 32\), expected .* \(64, 32\)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_without_an_equal_qwen2_model_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = make_checkpoint(**changes)
    with pytest.raises(ConfigError, match=message):
        import_qwen(folder, tmp_path / "qwen2")
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]


def test_truncated_ranks_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = make_checkpoint()
    lines = (folder / "qwen.tiktoken").read_bytes().splitlines(keepends=True)
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines[:-10]))
    with pytest.raises(ConfigError, match=r"290 tokens, but eos_token_id .* is 300, expected 290"):
        import_qwen(folder, tmp_path / "qwen2")


def test_gptq_tensors_are_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    extra = {"transformer.h.0.attn.c_attn.qweight": torch.zeros(4, 4, dtype=torch.int32)}
    constant = {"transformer.h.0.attn.rotary_emb.inv_freq": torch.zeros(4)}
    folder = make_checkpoint(weights=random_weights(CONFIG) | extra | constant)
    with pytest.raises(
        ConfigError, match=r"hold transformer\.h\.0\.attn\.c_attn\.qweight, which this"
    ):
        import_qwen(folder, tmp_path / "qwen2")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_and_a_truncated_file_are_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: str
) -> None:
    folder = make_checkpoint(kind)
    second = sorted(folder.glob(f"*-00002-of-00003.{kind}"))[0]
    os.truncate(second, second.stat().st_size // 2)
    with pytest.raises(ConfigError, match=rf"00002-of-00003\.{kind}: damaged.*expected undamaged"):
        import_qwen(folder, tmp_path / "qwen2")
    second.unlink()
    with pytest.raises(ConfigError, match=rf"00002-of-00003\.{kind} missing, listed in"):
        import_qwen(folder, tmp_path / "qwen2")
    index = next(folder.glob("*.index.json"))
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "x" * 300}}))
    with pytest.raises(ConfigError, match=r"x{300} missing, listed in"):
        import_qwen(folder, tmp_path / "qwen2")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of a checkpoint ran",)


def test_code_in_a_checkpoint_is_never_run(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_checkpoint("bin", 1)
    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin: damaged.*expected undamaged"):
        import_qwen(folder, tmp_path / "qwen2")
    assert "ran" not in capsys.readouterr().out


def test_a_full_disk_leaves_nothing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = make_checkpoint()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(RellmError, match=r"could not be written .* run the same command again"):
            import_qwen(folder, tmp_path / "qwen2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]
    import_qwen(folder, tmp_path / "qwen2")
    with pytest.raises(RellmError, match="is there already; choose another --out"):
        import_qwen(folder, tmp_path / "qwen2")


KILLED = """
import os, signal, sys
from pathlib import Path
from rellm_cache.utils import weight_shards
from rellm_cache.importers.qwen_v1 import import_qwen
save_file = weight_shards.save_file
def killed(tensors, path, metadata):
    if path.name == "shard-2":
        os.kill(os.getpid(), signal.SIGKILL)
    save_file(tensors, path, metadata=metadata)
weight_shards.save_file = killed
import_qwen(Path(sys.argv[1]), Path(sys.argv[2]), 40_000)
"""


def test_a_killed_import_leaves_no_model_and_can_be_repeated(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_checkpoint(), tmp_path / "qwen2"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(out)], check=False)
    assert done.returncode < 0
    (left,) = tmp_path.glob(".qwen2*.partial")
    assert sorted(p.name for p in left.iterdir()) == ["shard-0", "shard-1"]
    assert not out.exists()
    with pytest.raises(SystemExit) as end:
        main(["import", "qwen", str(folder), "--out", str(out)])
    assert end.value.code == 0
    assert "a chat model for rows of up to 128 tokens\nModel: " in capsys.readouterr().out
    assert not left.exists()
    assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 3


def test_the_command_quantizes_the_model_too(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "COPIED_BYTES", 0)
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path / "models"))
    folder, copies = make_checkpoint(), tmp_path / "models" / "quantized"
    for out, option in ((tmp_path / "plain", ["--no-copy"]), (tmp_path / "qwen2", [])):
        with pytest.raises(SystemExit) as end:
            main(["import", "qwen", str(folder), "--out", str(out), *option])
        assert end.value.code == 0
        assert copies.exists() == (not option)
    (copy,) = copies.iterdir()
    assert f"Quantized copy: {copy}\nModel: " in capsys.readouterr().out
    load_llm(LLMConfig(str(tmp_path / "qwen2")), torch.device("cpu"))
    assert [*copies.iterdir()] == [copy]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_memory_is_that_of_one_file(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kind: str
) -> None:
    size = 768
    config = {"hidden_size": size, "intermediate_size": 2 * size, "num_hidden_layers": 6}
    config |= {"num_attention_heads": 8, "kv_channels": 96}
    weights = random_weights(CONFIG | config)
    total = sum(t.nbytes for t in weights.values())
    assert total > 90e6
    folder = make_checkpoint(kind, 8, weights, **config)
    largest = max(f.stat().st_size for f in folder.iterdir())
    del weights
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    import_qwen(folder, tmp_path / "qwen2", shard_bytes=largest)
    # One file that is read, one that is written, and a little for what is not weights.
    assert status("VmHWM") - before < 2.5 * largest + 10e6 < total / 2


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
