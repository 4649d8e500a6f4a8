"""Speech LLM: the trained adapter and heads around a frozen chat LLM.

It takes a batch and returns emotion logits, dimensions and loss terms, or text answers. LoRA
trains too if the recipe has it. The frozen LLM is not a submodule, so no state dict or checkpoint
contains it.

Letters: B utterances, T' adapter frames, H the LLM's hidden size, C emotions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.data.batch import Batch, Target
from rellm_cache.errors import ConfigError
from rellm_cache.llm.decoding import Continuation, continue_prompts
from rellm_cache.llm.frozen import FrozenLLM, require_llm
from rellm_cache.llm.lora import LoRA, with_lora
from rellm_cache.llm.prompts import SpeechPrompt, speech_prompts
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit
from rellm_cache.model.adapter import Speech, concat_streams
from rellm_cache.model.answer_likelihoods import packed_log_likelihoods
from rellm_cache.model.example_packing import ExampleRows
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.model.layer_mix import LayerMixes
from rellm_cache.model.losses.dimensions import moments_of
from rellm_cache.model.losses.loss_terms import LossTerms
from rellm_cache.model.losses.registry import (
    TASKS,
    AnswerStates,
    LossContext,
    Outputs,
    active_losses,
    count_terms,
    loss_weights,
)
from rellm_cache.model.losses.token import predicting_states, token_cross_entropy
from rellm_cache.model.registry import build_adapter


class SpeechLLM(nn.Module):
    """Adapter and heads in front of a frozen LLM; `sizes` is D of each stream.

    Args:
        sizes: D of each stream as stored; of a stream with several layers, of all together.
        llm: the frozen LLM, or None if the recipe's losses do not need one.

    Attributes:
        emotions: names of the classes of the category head.
        loss_config: the recipe's `[losses]`.
        losses: active losses by name.
        class_weights: (C,) weights of `emotion_ce` in training mode, or None. The trainer sets
            them; in evaluation mode all emotions have equal weight.
    """

    class_weights: Tensor | None

    def __init__(self, recipe: Recipe, sizes: Mapping[str, int], llm: FrozenLLM | None) -> None:
        super().__init__()
        size = output_size(recipe.adapter, llm)
        self.loss_config = recipe.losses
        self._pooling = {name: encoder.pooling for name, encoder in recipe.encoders.items()}
        self.emotions = recipe.heads.emotions
        self.layer_mix = LayerMixes(recipe.adapter, recipe.encoders, sizes)
        self.adapter = build_adapter(recipe.adapter, sum(self.layer_mix.sizes.values()), size)
        self.heads = AuxiliaryHeads(recipe.heads, self.adapter.output_size)
        self.losses = active_losses(recipe.losses, recipe.heads.dimensions)
        self.loss_weights = loss_weights(recipe.losses)
        self.llm = llm
        self.lora: LoRA | None = None
        if llm is not None and recipe.llm is not None and recipe.llm.lora is not None:
            self.llm, self.lora = with_lora(llm, recipe.llm.lora)
        self.prompts = (
            speech_prompts(llm.chat, recipe.prompts, recipe.qa, recipe.heads.emotions)
            if llm
            else {}
        )
        self.rows: ExampleRows | None = None
        if self.llm is not None and recipe.llm is not None:
            self.rows = ExampleRows(self.llm, self.prompts, recipe.llm.pack_length)
        self.register_buffer("class_weights", None, persistent=False)

    def speech(self, batch: Batch) -> Speech:
        """Run the adapter on the frames of a batch, cropped and with their layers mixed."""
        framed = {n: f for n, f in batch.streams.items() if self._pooling[n] == "frame"}
        cropped, lengths = self.adapter.crop(framed, batch.frame_lengths)
        stored = {name: cropped.get(name, frames) for name, frames in batch.streams.items()}
        streams = {
            name: self.layer_mix.mix(name, frames, batch.quantization.get(name))
            for name, frames in stored.items()
        }
        frames = concat_streams(streams, lengths, self._pooling)  # (B, T, D)
        embeddings, lengths = self.adapter(frames, lengths)  # (B, T, D) -> (B, T', H)
        return Speech(embeddings.float(), lengths)

    def pooled(self, speech: Speech) -> Tensor:
        """(B, P) pooled embeddings, which the heads read."""
        return self.heads.pool(speech.embeddings, speech.lengths)

    def forward(self, batch: Batch, moments: Tensor | None = None) -> Outputs:
        """Outputs of the heads and loss terms for one batch.

        Args:
            moments: (6, 3) sums of `dimension_moments` over all batches of the step; None if the
                step has only this batch. Only the CCC loss uses them.
        """
        speech = self.speech(batch)
        pooled = self.pooled(speech)  # (B, P)
        outputs = Outputs(speech, pooled, *self.heads(pooled))
        context = self._context(moments)
        zero = speech.embeddings.new_zeros(())
        sums = dict.fromkeys(self.losses, zero) | self._answer_losses(speech, batch, context)
        for name, loss in self.losses.items():
            if loss.clip_sum is not None:
                sums[name] = loss.check(loss.clip_sum(outputs, batch, loss.context(context)))
        return replace(outputs, terms=LossTerms.of(sums, self.counts(batch)))

    def _context(self, moments: Tensor | None = None) -> LossContext:
        """Make the loss context; class weights apply in training only, to compare validations."""
        weights = self.class_weights if self.training else None
        return LossContext(self.loss_config, weights, moments)

    @torch.no_grad()
    def dimension_moments(self, batch: Batch) -> Tensor:
        """(6, 3) float64 sums over the dimensions of a batch; add them to get those of a step."""
        speech = self.speech(batch)
        _, dimensions = self.heads(self.pooled(speech))
        return moments_of(dimensions, batch.vad)

    @property
    def needs_moments(self) -> bool:
        """Whether the losses of a micro-batch need the dimensions of the whole step (CCC)."""
        return "vad" in self.losses and self.loss_config.vad_kind == "ccc"

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count of each active loss over a batch, scalars, without a forward pass."""
        return count_terms(self.losses.values(), batch, self._context())

    def _answer_losses(
        self, speech: Speech, batch: Batch, context: LossContext
    ) -> dict[str, Tensor]:
        """Summed losses over answer tokens by name, scalars, over rows of packed examples."""
        if self.llm is None or self.rows is None:
            return {}
        others = [loss for loss in self.losses.values() if loss.token_sum is not None]
        weight, teacher = self.llm.output_weight, batch.teacher
        entropies = speech.embeddings.new_zeros(len(TASKS), dtype=torch.float32)  # in bf16 runs too
        sums = {loss.name: entropies.new_zeros(()) for loss in others}
        for row, task_of_segment in self.rows.packed(speech, batch.targets):
            hidden = self.llm.hidden_states(row)  # (T, H)
            losses, owners = token_cross_entropy(row, hidden, weight)  # (N,), (N,)
            places = torch.tensor([TASKS.index(task) for task in task_of_segment])
            task_of = places.to(owners.device)[owners]  # (N,)
            entropies = entropies.index_add(0, task_of, losses)
            for task in {loss.task for loss in others}:
                own = task_of == TASKS.index(task)  # (N,)
                states = predicting_states(row, hidden, weight)[own]  # (n, H)
                taught = None
                if task == "response_lm" and teacher is not None:
                    taught, teacher = teacher[: len(states)], teacher[len(states) :]
                answers = AnswerStates(states, row.answers[own], weight, taught)
                for loss in others:
                    if loss.task == task and loss.token_sum is not None:
                        total = loss.check(loss.token_sum(answers, loss.context(context)))
                        sums[loss.name] = sums[loss.name] + total
        return sums | dict(zip(TASKS, entropies.unbind(), strict=True))

    def tokens(self, embeddings: int, targets: Sequence[Target]) -> int:
        """Tokens that an utterance of so many speech embeddings costs; see `ExampleRows.tokens`."""
        return embeddings if self.rows is None else self.rows.tokens(embeddings, targets)

    @torch.inference_mode()
    def answers(
        self, speech: Speech, task: str, max_new_tokens: int, limit: ReplyLimit = NO_LIMIT
    ) -> list[Continuation]:
        """Greedy answers of the LLM to a request with each utterance's speech, up to `limit`."""
        after = self.prompts[task].after
        asked = [(index, after) for index in range(len(speech.counts))]
        return self._continue(speech, task, asked, max_new_tokens, limit)

    @torch.inference_mode()
    def question_answers(
        self, speech: Speech, asked: Sequence[tuple[int, Sequence[int]]], max_new_tokens: int
    ) -> list[Continuation]:
        """Greedy answers to questions: pairs of utterance index and token ids after the speech."""
        return self._continue(speech, "qa_lm", asked, max_new_tokens)

    def _continue(
        self,
        speech: Speech,
        task: str,
        asked: Sequence[tuple[int, Sequence[int]]],
        max_new_tokens: int,
        limit: ReplyLimit = NO_LIMIT,
    ) -> list[Continuation]:
        """Answers to pairs of utterance index and token ids that follow its speech."""
        llm = require_llm(self.llm)
        start = llm.prefix_segment(self.prompts[task].before)
        prompts, spans = [], []
        for index, ids in asked:
            one = speech.one(index).to(llm.dtype)  # (T', H)
            prompts.append(torch.cat([start.embeddings, one, llm.embed(ids)]))  # (T, H)
            before = len(start.embeddings)
            spans.append([range(before, before + len(one))])
        return continue_prompts(llm, prompts, max_new_tokens, spans, limit, prefix=start.prefix)

    @torch.inference_mode()
    def label_log_likelihoods(
        self,
        speech: Speech,
        labels: Sequence[Sequence[int]],
        prompt: SpeechPrompt | None = None,
    ) -> Tensor:
        """(B, C) log-likelihood of each label's ids, with the end token, as the answer to a
        recognition request.

        Args:
            prompt: token ids around the speech; None for the request of training.
        """
        heard = [speech.one(index) for index in range(len(speech.counts))]
        return self._label_log_likelihoods(heard, labels, prompt)

    @torch.inference_mode()
    def empty_log_likelihoods(
        self, labels: Sequence[Sequence[int]], prompt: SpeechPrompt
    ) -> Tensor:
        """(C,) log-likelihood of each label's ids as the answer to a request without speech."""
        return self._label_log_likelihoods([None], labels, prompt)[0]

    def _label_log_likelihoods(
        self,
        speech: Sequence[Tensor | None],
        labels: Sequence[Sequence[int]],
        prompt: SpeechPrompt | None,
    ) -> Tensor:
        llm, prompt = require_llm(self.llm), prompt or self.prompts["emotion_lm"]
        requests = [llm.segment(one, prompt.after, parent=0) for one in speech]
        return packed_log_likelihoods(llm, llm.prefix_segment(prompt.before), requests, labels)


def output_size(adapter: AdapterConfig, llm: FrozenLLM | None) -> int:
    """H: the LLM's hidden size, or the recipe's `adapter.output_size` without an LLM."""
    wanted = adapter.output_size
    if llm is None:
        return wanted
    if wanted and wanted != llm.hidden_size:
        raise ConfigError(
            f"adapter.output_size = {wanted}, but {llm.config.model} has hidden size "
            f"{llm.hidden_size}; leave adapter.output_size out"
        )
    return llm.hidden_size
