"""CPU time of a training step of the recipe `heads` with one and with several layers.

Frames are random, of 24 clips of 3.8 s, with the sizes of Whisper tiny.en (384 values in a layer)
and prosody. A step is the forward and backward pass and the update, without reading the cache. CPU
time does not count other programs; one thread.

    python tests/benchmarks/layer_mix.py --layers 5
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch

from rellm_cache.config.recipes import load_recipe
from rellm_cache.data.batch import Batch
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.optim import Optimizer

CLIPS, FRAMES, LAYER, PROSODY = 24, 190, 384, 65
STEPS = 30


def step_milliseconds(layers: int, changes: Mapping[str, Any]) -> float:
    """Median CPU time of a step."""
    torch.manual_seed(0)
    several = {"encoders.speech.layers": [*range(layers)]} if layers > 1 else {}
    recipe = load_recipe("heads", {**several, **changes})
    sizes = {"speech": layers * LAYER, "emotion": PROSODY}
    model = SpeechLLM(recipe, sizes, None).train()
    optimizer = Optimizer(model, recipe.training, 1000)
    batch = Batch(
        ids=tuple(map(str, range(CLIPS))),
        streams={name: torch.randn(CLIPS, FRAMES, size).half() for name, size in sizes.items()},
        frame_lengths=torch.randint(150, FRAMES + 1, (CLIPS,)),
        emotions=torch.randint(0, 5, (CLIPS,)),
        vad=torch.rand(CLIPS, 3),
        targets=((),) * CLIPS,
    )
    times = []
    for number in range(STEPS):
        begun = time.process_time()
        terms = model(batch).terms
        terms.total(model.loss_weights).backward()
        optimizer.step(number)
        times.append(time.process_time() - begun)
    return 1e3 * sorted(times)[STEPS // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=5)
    layers = parser.parse_args().layers
    torch.set_num_threads(1)
    mixes: dict[str, tuple[int, dict[str, Any]]] = {
        "one layer": (1, {}),
        "one layer, projection of 128": (1, {"heads.projection": 128}),
        "one layer, attentive statistics": (1, {"heads.pooling": "attentive_statistics"}),
        f"{layers} layers, softmax": (layers, {"adapter.layer_mix": "softmax"}),
        f"{layers} layers, softmax, layer norm": (
            layers, {"adapter.layer_mix": "softmax", "adapter.layer_norm": True},
        ),
        f"{layers} layers, concat": (layers, {}),
        f"{layers} layers, concat, layer norm": (layers, {"adapter.layer_norm": True}),
    }  # fmt: skip
    for name, (count, changes) in mixes.items():
        print(f"{name:40} {step_milliseconds(count, changes):6.0f} ms")


if __name__ == "__main__":
    main()
