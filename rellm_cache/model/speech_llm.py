"""The model. In: a `Batch`. Out: emotion logits, dimensions, loss terms; or speech prompts.

The adapter and the heads train, and LoRA where the recipe has it. The LLM, where the recipe has
one, is frozen and not a submodule: it is in no state dict, no optimiser and no checkpoint.

Letters: B utterances, T' adapter frames, H the LLM's hidden size, C emotions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch, Target
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import Continuation, continue_prompts
from rellm_cache.llm.lora import LoRA, with_lora
from rellm_cache.llm.reply_limit import NO_LIMIT, ReplyLimit
from rellm_cache.llm.speech_prompts import require_llm, speech_prompts
from rellm_cache.model.adapter import Adapter, Speech, dequantize, fuse
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.model.losses.ccc import concordance_loss, moments_of
from rellm_cache.model.losses.terms import (
    TERMS,
    LossTerms,
    category_loss,
    count_terms,
    dimension_loss,
    predictions,
    token_divergences,
    token_losses,
)
from rellm_cache.model.row_packing import ExampleRows


@dataclass(frozen=True)
class Outputs:
    """What the heads say, and the losses.

    Attributes:
        emotion_logits: (B, C).
        dimensions: (B, 3) arousal, dominance, valence, or None.
        terms: summed losses with their counts.
    """

    emotion_logits: Tensor
    dimensions: Tensor | None
    terms: LossTerms


class SpeechLLM(nn.Module):
    """Adapter and heads in front of a frozen LLM.

    Attributes:
        class_weights: (C,) of the category loss in training, or None. Set by whoever knows the
            training split; in evaluation mode all emotions weigh the same.
    """

    class_weights: Tensor | None

    def __init__(
        self, recipe: Recipe, speech_size: int, emotion_size: int, llm: FrozenLLM | None
    ) -> None:
        super().__init__()
        size = output_size(recipe, llm)
        self.recipe = recipe
        self.adapter = Adapter(recipe.adapter, speech_size + emotion_size, size)
        self.heads = AuxiliaryHeads(recipe.heads, size)
        self.llm = llm
        self.lora: LoRA | None = None
        if llm is not None and recipe.llm is not None and recipe.llm.lora is not None:
            self.llm, self.lora = with_lora(llm, recipe.llm.lora)
        self.prompts = {} if llm is None else speech_prompts(recipe, llm)
        self.rows: ExampleRows | None = None
        if self.llm is not None and recipe.llm is not None:
            self.rows = ExampleRows(self.llm, self.prompts, recipe.llm.pack_length)
        self.register_buffer("class_weights", None, persistent=False)

    def speech(self, batch: Batch) -> Speech:
        """Run the adapter."""
        speech = dequantize(batch.speech, batch.speech_steps)
        emotion = batch.emotion
        if emotion is not None:
            emotion = dequantize(emotion, batch.emotion_steps)
        pooling = self.recipe.emotion.pooling
        frames = fuse(speech, emotion, batch.frame_lengths, pooling)  # (B, T, D)
        embeddings, lengths = self.adapter(frames, batch.frame_lengths)  # (B, T, D) -> (B, T', H)
        return Speech(embeddings.float(), lengths)

    def forward(self, batch: Batch, moments: Tensor | None = None) -> Outputs:
        """Heads' outputs and loss terms of one batch.

        Args:
            moments: of the dimensions of the step it is a part of, as `dimension_moments` gives
                them, summed; None where the batch is all of it. Only CCC asks for them.
        """
        speech = self.speech(batch)
        logits, dimensions = self.heads(speech.embeddings, speech.lengths)
        losses = self.recipe.losses
        sums = self._answer_losses(speech, batch)
        if losses.emotion_ce:
            category = category_loss(
                logits, batch.emotions, losses.label_smoothing, self._weights_now
            )
            sums["emotion_ce"] = category
        if losses.vad and dimensions is not None:
            if losses.vad_kind == "ccc":
                sums["vad"] = concordance_loss(dimensions, batch.vad, moments)
            else:
                sums["vad"] = dimension_loss(dimensions, batch.vad)
        zero = speech.embeddings.new_zeros(())
        terms = LossTerms(torch.stack([sums.get(t, zero) for t in TERMS]), self.counts(batch))
        return Outputs(logits, dimensions, terms)

    @property
    def _weights_now(self) -> Tensor | None:
        """Weights of the emotions: in training alone, so that validation losses compare."""
        return self.class_weights if self.training else None

    @torch.no_grad()
    def dimension_moments(self, batch: Batch) -> Tensor:
        """(6, 3) float64 sums of a batch's dimensions; those of a step's batches add up."""
        speech = self.speech(batch)
        _, dimensions = self.heads(speech.embeddings, speech.lengths)
        return moments_of(dimensions, batch.vad)

    def counts(self, batch: Batch) -> Tensor:
        """(6,) what each loss term of a batch is to be divided by."""
        tokens = dict.fromkeys(TERMS, 0)
        for target in (t for targets in batch.targets for t in targets):
            tokens[target.task] += len(target.ids)
        if batch.teacher is not None:
            tokens["response_kl"] = len(batch.teacher)
        return count_terms(tokens, batch.emotions, batch.vad, self._weights_now)

    def _answer_losses(self, speech: Speech, batch: Batch) -> dict[str, Tensor]:
        """Summed losses over tokens by term, scalars, over rows of packed examples."""
        if self.llm is None or self.rows is None:
            return {}
        sums = speech.embeddings.new_zeros(len(TERMS), dtype=torch.float32)  # in bf16 runs too
        taught = 0  # rows of the teacher that earlier rows of examples used
        for row, tasks in self.rows.packed(speech, batch.targets):
            hidden = self.llm.hidden_states(row)  # (T, H)
            losses, owners = token_losses(row, hidden, self.llm.output_weight)  # (N,), (N,)
            task_of = tasks.to(owners.device)[owners]  # (N,)
            sums = sums.index_add(0, task_of, losses)
            if batch.teacher is not None:
                predictors = predictions(row, hidden, self.llm.output_weight)  # (N, H)
                predictors = predictors[task_of == TERMS.index("response_lm")]  # (n, H)
                lessons = batch.teacher[taught : taught + len(predictors)]  # (n, 2 K + 1)
                taught += len(predictors)
                divergences = token_divergences(
                    predictors, self.llm.output_weight, lessons, self.recipe.losses.kl_temperature
                )
                at = torch.tensor([TERMS.index("response_kl")], device=sums.device)
                sums = sums.index_add(0, at, divergences.sum(0, keepdim=True))
        return dict(zip(TERMS, sums, strict=True))

    def tokens(self, embeddings: int, targets: Sequence[Target]) -> int:
        """Tokens that an utterance of so many speech embeddings costs; see `ExampleRows.tokens`."""
        return embeddings if self.rows is None else self.rows.tokens(embeddings, targets)

    def prompt_embeddings(
        self, speech: Tensor, task: str, asked: Sequence[int] | None = None
    ) -> Tensor:
        """(T, H) a whole request around one utterance's speech (t, H).

        Args:
            asked: token ids after the speech, where they are not those of the task.
        """
        llm, prompt = require_llm(self.llm), self.prompts[task]
        ids = prompt.after if asked is None else asked
        before, after = llm.embed(prompt.before), llm.embed(ids)
        return torch.cat([before, speech.to(before.dtype), after])

    @torch.inference_mode()
    def answers(
        self, speech: Speech, task: str, max_new_tokens: int, limit: ReplyLimit = NO_LIMIT
    ) -> list[Continuation]:
        """The LLM's greedy answer to a request around each utterance's speech, up to `limit`."""
        start = len(self.prompts[task].before)
        return continue_prompts(
            require_llm(self.llm),
            [self.prompt_embeddings(speech.one(i), task) for i in range(len(speech.counts))],
            max_new_tokens,
            [range(start, start + length) for length in speech.counts],
            limit,
        )

    @torch.inference_mode()
    def question_answers(
        self, speech: Speech, asked: Sequence[tuple[int, Sequence[int]]], max_new_tokens: int
    ) -> list[Continuation]:
        """Greedy answers to questions: of each its utterance, and token ids after the speech."""
        start = len(self.prompts["qa_lm"].before)
        return continue_prompts(
            require_llm(self.llm),
            [self.prompt_embeddings(speech.one(i), "qa_lm", ids) for i, ids in asked],
            max_new_tokens,
            [range(start, start + speech.counts[i]) for i, _ in asked],
        )

    @torch.inference_mode()
    def label_log_likelihoods(self, speech: Speech, labels: Sequence[Sequence[int]]) -> Tensor:
        """(B, C) log-likelihood of each label's ids, end included, as the answer to the request
        for recognition."""
        llm, prompt = require_llm(self.llm), self.prompts["emotion_lm"]
        results = [
            answer_log_likelihoods(
                llm,
                [
                    llm.prefix_segment(prompt.before),
                    llm.segment(speech.one(index), prompt.after, parent=0),
                ],
                labels,
            )
            for index in range(len(speech.counts))
        ]
        return torch.stack(results)


def output_size(recipe: Recipe, llm: FrozenLLM | None) -> int:
    """H: the LLM's hidden size, or the recipe's `adapter.output_size` without one."""
    wanted = recipe.adapter.output_size
    if llm is None:
        return wanted
    if wanted and wanted != llm.hidden_size:
        raise ConfigError(
            f"adapter.output_size = {wanted}, but {llm.config.model} has hidden size "
            f"{llm.hidden_size}; leave adapter.output_size out"
        )
    return llm.hidden_size
