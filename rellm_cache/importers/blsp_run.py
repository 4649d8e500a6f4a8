"""import blsp. In: a BLSP-Emo checkpoint and a recipe. Out: a run folder to start training from.

    <out>/whisper/                  its Whisper encoder, as transformers stores it
    <out>/adapter.safetensors       its adapter as wide as the recipe's streams, and new heads
    <out>/adapter_config.json
    <out>/recipe.toml               the recipe with this encoder and this start

`rellm train --recipe <out>/recipe.toml` then starts from BLSP-Emo's own function of the speech.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.importers.blsp import (
    LORA,
    WHISPER,
    BlspConfig,
    expected_shapes,
    is_left_out,
    read_adapter,
    read_blsp_config,
    widen_into,
)
from rellm_cache.importers.checkpoint_source import CheckpointWeights, find_weights, read_config
from rellm_cache.importers.model_folder import ShardedModelWriter
from rellm_cache.model.adapter import ConvAdapter
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import RECIPE, WEIGHTS, AdapterInfo, save_config, save_tensors
from rellm_cache.utils.atomic_files import new_folder
from rellm_cache.utils.console import progress
from rellm_cache.utils.model_files import weights_digest

PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class ImportedRun:
    """A run folder made from a BLSP-Emo checkpoint.

    Attributes:
        out: the run folder.
        recipe: the recipe that starts from it.
        whisper: the folder of its encoder.
        trainable: parameters of the adapter and heads.
        lora: tensors of a LoRA on the LLM that were left out.
    """

    out: Path
    recipe: Path
    whisper: Path
    trainable: int
    lora: int


def import_blsp(folder: Path, out: Path, recipe: Recipe, sizes: Mapping[str, int]) -> ImportedRun:
    """Make a run folder from a BLSP-Emo checkpoint.

    Args:
        folder: with config.json, preprocessor_config.json and the weights.
        out: the new run folder.
        recipe: whose encoders, adapter and heads training will use.
        sizes: values in a frame of each stream but the first; more names are ignored.

    Raises:
        ConfigError: the checkpoint is incomplete or of another adapter, or the recipe does not fit.
        RellmError: `out` holds something, or cannot be written.
    """
    config = read_blsp_config(folder, read_config(folder))
    check_recipe(recipe, config, sizes)
    speech, *others = recipe.encoders
    sizes = {speech: config.whisper.d_model, **{name: sizes[name] for name in others}}
    if not (folder / PREPROCESSOR).is_file():
        raise ConfigError(f"{folder / PREPROCESSOR}: is missing; copy it from the checkpoint")
    weights = find_weights(folder)
    shapes = expected_shapes(config)
    weights.check(shapes, is_left_out)
    model = start_model(recipe, config, sizes, weights)
    info = AdapterInfo(
        sizes=sizes,
        output_size=config.hidden_size,
        trainable_parameters=sum(p.numel() for p in model.parameters()),
        licences={"BLSP-Emo": "Apache-2.0", "Whisper": "MIT"},
    )
    encoder_bytes = weights.bytes(name for name in shapes if name.startswith(WHISPER))
    with new_folder(out, encoder_bytes + 4 * info.trainable_parameters) as partial:
        write_whisper(folder, config, weights, partial / "whisper")
        recipe = starting_recipe(recipe, out.absolute(), weights_digest(partial / "whisper"))
        save_tensors(partial / WEIGHTS, model)
        save_config(partial, info, recipe)
        (partial / RECIPE).write_text(to_toml(recipe), "utf-8")
    return ImportedRun(
        out=out,
        recipe=out / RECIPE,
        whisper=out / "whisper",
        trainable=info.trainable_parameters,
        lora=sum(LORA in name for name in weights.shapes),
    )


def check_recipe(recipe: Recipe, config: BlspConfig, sizes: Mapping[str, int]) -> None:
    """Raise `ConfigError` where a recipe cannot start from this checkpoint."""
    adapter = recipe.adapter
    (name, speech), *others = recipe.encoders.items()
    found = {
        "adapter.preset": (adapter.preset, "reference"),
        "adapter.bottleneck": (adapter.bottleneck, config.bottleneck),
        "adapter.output_size": (adapter.output_size or config.hidden_size, config.hidden_size),
        f"encoders.{name}.kind": (speech.kind, "whisper"),
        f"encoders.{name}.layer": (speech.layer, -1),
    }
    for field, (value, expected) in found.items():
        if value != expected:
            raise ConfigError(
                f"recipe {recipe.name!r}: {field}: found {value!r}, but this BLSP-Emo checkpoint "
                f"needs {expected!r}"
            )
    for other, _ in others:
        if sizes.get(other, 0) < 1:
            raise ConfigError(
                f"recipe {recipe.name!r}: the size of stream {other!r} is unknown; give "
                f"--stream-size {other} VALUES"
            )


def start_model(
    recipe: Recipe, config: BlspConfig, sizes: Mapping[str, int], weights: CheckpointWeights
) -> SpeechLLM:
    """Adapter and heads: BLSP-Emo's function of the speech, all else new by the recipe's seed."""
    adapter = dataclasses.replace(recipe.adapter, output_size=config.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        recipe = dataclasses.replace(recipe, adapter=adapter)
        model = SpeechLLM(recipe, sizes, llm=None)
    assert isinstance(model.adapter, ConvAdapter)
    widen_into(model.adapter, read_adapter(weights))
    return model


def starting_recipe(recipe: Recipe, out: Path, whisper: str) -> Recipe:
    """The recipe with the imported encoder, and training that starts from the imported adapter.

    The encoder's weights are pinned by their digest `whisper`: two imports of one checkpoint read
    the same frames, wherever they lie. `out` is absolute, so that training may start anywhere.
    """
    folder = str(out / "whisper")
    name, encoder = next(iter(recipe.encoders.items()))
    speech = dataclasses.replace(encoder, model=folder, weights_sha256=whisper)
    return dataclasses.replace(
        recipe,
        encoders={**recipe.encoders, name: speech},
        training=dataclasses.replace(recipe.training, init_from=str(out)),
    )


def write_whisper(folder: Path, config: BlspConfig, weights: CheckpointWeights, out: Path) -> None:
    """Write the encoder as a `WhisperModel` without decoder layers, types as they are."""
    out.mkdir()
    writer = ShardedModelWriter(out)
    with progress("Copying", len(weights.files), "files") as tick:
        for file in weights.files:
            for name, tensor in weights.tensors(file, lambda name: name.startswith(WHISPER)):
                writer.add(f"encoder.{name.removeprefix(WHISPER)}", tensor.contiguous())
            tick(1, file.name)
    writer.close()
    shutil.copyfile(folder / PREPROCESSOR, out / PREPROCESSOR)
    whisper = config.whisper
    whisper.architectures = ["WhisperModel"]
    whisper.dtype = weights.dtypes[f"{WHISPER}conv1.weight"]
    whisper.save_pretrained(out)
