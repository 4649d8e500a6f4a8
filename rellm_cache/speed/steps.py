"""Steps of the real trainer on made data: seconds, tokens and operations.

Operations that a step needs are counted: for each weight of the LLM and each token, two forward and
two backward (weights do not train); for each adapter weight and each frame that it is applied to,
six; the output matrix at answers only. Attention, LoRA and what checkpointing computes again are
not counted.
"""

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Example
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.speed.made_data import made_examples, made_streams
from rellm_cache.speed.peak import wait_for
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator
from rellm_cache.training.micro_batches import example_tokens

WARM_UP = 2  # steps that are not counted, of three or more
FEWEST = 2  # steps: one to warm up, one that counts
EPOCHS = 1000


@dataclass(frozen=True)
class StepTimes:
    """Seconds of the steps that count, and how many came before.

    Attributes:
        processor_seconds: of all threads of this process, for each of these steps.
    """

    seconds: list[float]
    processor_seconds: list[float]
    warm_up: int


class MadeTraining:
    """A trainer over made clips, as many as one optimizer step of the recipe has.

    Args:
        out: scratch folder of the trainer.
        llm: None where the recipe's losses need none.

    Raises:
        ConfigError: the recipe needs data that cannot be made.
    """

    def __init__(self, recipe: Recipe, llm: FrozenLLM | None, out: Path) -> None:
        # An epoch is one step here; the learning rate must not reach its end.
        recipe = replace(recipe, training=replace(recipe.training, epochs=EPOCHS))
        self.recipe, self.llm = recipe, llm
        self.clips = clips_a_step(recipe)
        self.streams: StreamSet = made_streams(recipe.encoders, self.clips)
        self.examples: list[Example] = made_examples(recipe, llm, self.clips)
        data = TrainingData(self.examples, [], self.streams)
        self.trainer = Trainer(recipe, data, out, llm, make_accelerator(out))
        self.trainer.model.train()

    def step_times(self, end: float, most_steps: int) -> StepTimes:
        """Time steps until `time.monotonic()` is `end`, and at least `FEWEST` of them.

        A step begins when the one before has ended, so that it includes waiting for its frames.

        Args:
            most_steps: steps that count.
        """
        batcher, settled = self.trainer.micro_batcher, 0
        times, processor = list[float](), list[float]()
        most = WARM_UP + most_steps
        while len(times) < most and not (len(times) >= FEWEST and time.monotonic() > end):
            limit, first = batcher.limit, len(times)
            plan = [self.trainer.groups(number)[0] for number in range(first, most)]
            with (
                closing(self.trainer.loader.groups(plan, reuse_memory=True)) as groups,
                self.trainer.unpacked_llm(),
            ):
                begun, worked = time.perf_counter(), time.process_time()
                for batches in groups:
                    self.trainer.step(batches, len(times))
                    wait_for(self.trainer.device)
                    now, work = time.perf_counter(), time.process_time()
                    times.append(now - begun)
                    processor.append(work - worked)
                    begun, worked = now, work
                    changed = batcher.limit != limit
                    if changed:
                        settled = len(times)
                        most = max(most, settled + most_steps)
                    if changed or (len(times) >= FEWEST and time.monotonic() > end):
                        break
        skipped = min(max(WARM_UP, settled), len(times) - 1)
        return StepTimes(times[skipped:], processor[skipped:], skipped)

    def tokens(self) -> int:
        """Tokens of an optimizer step: speech, prompt after it and answers; 0 without an LLM."""
        if self.llm is None:
            return 0
        model, lengths = self.trainer.model, self.trainer.loader.lengths
        return sum(example_tokens(model, self.examples, lengths).values())

    def operations(self) -> float:
        """Floating-point operations of an optimizer step, as counted above."""
        model = self.trainer.model
        frames = model.adapter.input_lengths(torch.tensor(self.trainer.loader.lengths)).sum()
        counted = int(frames) * (model.adapter.operations + model.layer_mix.operations)
        if self.llm is None:
            return counted
        answers = sum(len(t.ids) for example in self.examples for t in example.targets)
        output = math.prod(self.llm.output_weight.shape)
        return counted + 4 * (linear_parameters(self.llm) * self.tokens() + output * answers)


def clips_a_step(recipe: Recipe) -> int:
    """Utterances in an optimizer step."""
    return recipe.training.batch_size * recipe.training.gradient_accumulation


def with_clips_a_step(recipe: Recipe, clips: int) -> Recipe:
    """The recipe with so many utterances in an optimizer step, drawn at once."""
    training = replace(recipe.training, batch_size=clips, gradient_accumulation=1)
    return replace(recipe, training=training)


def linear_parameters(llm: FrozenLLM) -> int:
    """Weights of an LLM's linear layers without the output matrix; 4-bit ones count as they are."""
    output = llm.model.get_output_embeddings()
    layers = (m for m in llm.model.modules() if isinstance(m, nn.Linear) and m is not output)
    return sum(layer.in_features * layer.out_features for layer in layers)
