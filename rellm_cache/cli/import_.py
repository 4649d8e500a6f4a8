"""rellm import: convert checkpoints of other projects."""

from pathlib import Path

import click

from rellm_cache.cli import options

folder_argument = click.argument("folder", type=options.EXISTING)


@click.group("import")
def import_() -> None:
    """Convert checkpoints of other projects.

    None of their code runs. The result is written completely or not at all; if the command is
    killed, run it again.
    """


@import_.command()
@folder_argument
@options.out("New model folder, for example cache/models/Qwen-7B-Chat-Qwen2.")
@click.option(
    "--copy/--no-copy",
    "copy",
    default=True,
    help="Whether to quantize the model too, so that its first start takes seconds.",
)
def qwen(folder: Path, out: Path, copy: bool) -> None:
    """Convert Qwen-7B or Qwen-7B-Chat (v1) to Qwen2.

    FOLDER is the downloaded checkpoint. Weights are renamed one file at a time, so it needs the
    memory of one file. The tokenizer is converted too. Then the model is quantized to 4 bits, as
    `respond` and `train` would at their first start.
    """
    from rellm_cache.importers.qwen_v1 import import_qwen, with_quantized_copy

    model = import_qwen(folder, out)
    if copy:
        model = with_quantized_copy(model)
    kind = "chat model" if model.chat else "base model"
    click.echo(
        f"{model.parameters / 1e9:.1f} G parameters, a {kind} for rows of up to "
        f"{model.positions} tokens"
    )
    if model.copy is not None:
        click.echo(f"Quantized copy: {model.copy}")
    click.echo(f"Model: {model.out} (--set llm.model={model.out})")


@import_.command()
@folder_argument
@options.out("New run folder: encoder, adapter, and a recipe that starts from them.")
@click.option(
    "--recipe",
    default="re-llm",
    metavar="NAME|FILE",
    help="Recipe to train, with the reference adapter: shipped recipe or TOML file.",
)
@options.overrides
@click.option(
    "--stream-size",
    "sizes",
    type=(str, options.COUNT),
    multiple=True,
    default=(("emotion", 1024),),
    metavar="NAME VALUES",
    help="Values in a frame of a stream, for each stream of the recipe but the first. Repeatable.",
)
def blsp(
    folder: Path,
    out: Path,
    recipe: str,
    overrides: tuple[str, ...],
    sizes: tuple[tuple[str, int], ...],
) -> None:
    """Make a run folder from a BLSP-Emo checkpoint.

    FOLDER is the downloaded checkpoint. The run has its adapter, category head and Whisper encoder.
    The adapter is widened for the recipe's other streams; before the first step it computes what
    BLSP-Emo's does. Its LoRA is taken if the recipe has [llm.lora]; the LLM is left out.
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.importers.blsp import import_blsp

    run = import_blsp(folder, out, load_recipe(recipe, overrides), dict(sizes))
    head = "its category head" if run.emotion_head else "a new category head"
    click.echo(f"{run.trainable / 1e6:.1f} M parameters to train without LoRA; {head}")
    if run.lora_taken:
        click.echo(f"{run.lora} tensors of its LoRA were taken")
    elif run.lora:
        click.echo(
            f"Note: {run.lora} tensors of the LLM's LoRA were left out, so answers start from "
            "the LLM without LoRA; --set llm.lora={} takes them"
        )
    click.echo(f"Encoder: {run.whisper}")
    click.echo(f"Run: {run.out}")
    click.echo(f"Extract and train with --recipe {run.recipe}")
