"""Fuzzing of model folders: configuration, tokenizer, template, weights and their index."""

import json
import shutil
from pathlib import Path

import torch
from fuzzing import damaged_bytes, damaged_file, damaged_json, fuzz, replace, value_or_named_error

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.loading import load_llm
from rellm_cache.utils.model_files import check_files, stated_licence, weights_digest


def read(folder: Path) -> None:
    check_files(folder, ("tokenizer.json",))
    weights_digest(folder)
    stated_licence(folder)
    config = LLMConfig(str(folder), quantization="none", template="model")
    llm = load_llm(config, torch.device("cpu"))
    llm.chat.text_prompt("Be kind.", "Hi")


def test_model_folder(llm_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llm_folder, tmp_path / "chat"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    files = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        if path.suffix == ".json":
            files[path.name] = damaged_json(json.loads(data))
        else:
            files[path.name] = damaged_bytes(data)
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors"}}
    files["model.safetensors.index.json"] = damaged_json(index)

    def check(changed: tuple[str, bytes]) -> None:
        name, content = changed
        restore = replace(folder, name, content)
        is_index = name.endswith("index.json")
        if is_index:
            (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        try:
            value_or_named_error(lambda: read(folder), folder)
        finally:
            if is_index:
                (folder / "model-1.safetensors").rename(folder / "model.safetensors")
            restore()

    fuzz(damaged_file(files), check, cost=4)
