"""The model. In: a `Batch`. Out: emotion logits, dimensions, loss terms; or speech prompts.

The adapter and the heads train, and LoRA where the recipe has it. The LLM, where the recipe has
one, is frozen and not a submodule: it is in no state dict, no optimiser and no checkpoint.

Letters: B utterances, T' adapter frames, H the LLM's hidden size, C emotions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rellm_cache.batches import Batch, Target
from rellm_cache.config import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import Continuation, FrozenLLM
from rellm_cache.llm.lora import LoRA, with_lora
from rellm_cache.llm.packing import PackedRow, Segment, pack
from rellm_cache.llm.prompt import SpeechPrompt
from rellm_cache.llm.reply_limit import NO_LIMIT, ReplyLimit
from rellm_cache.model.adapter import Adapter, dequantise, fuse
from rellm_cache.model.concordance import concordance_loss, moments_of
from rellm_cache.model.heads import AuxiliaryHeads
from rellm_cache.model.losses import (
    TERMS,
    LossTerms,
    category_loss,
    count_terms,
    dimension_loss,
    predictions,
    token_divergences,
    token_losses,
)


@dataclass(frozen=True)
class Speech:
    """Utterances as the LLM hears them.

    Attributes:
        embeddings: (B, T', H) float32.
        lengths: (B,) int64 valid embeddings.
    """

    embeddings: Tensor
    lengths: Tensor

    def one(self, index: int) -> Tensor:
        """(t, H) valid embeddings of one utterance."""
        return self.embeddings[index, : int(self.lengths[index])]


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
        self.register_buffer("class_weights", None, persistent=False)

    def speech(self, batch: Batch) -> Speech:
        """Run the adapter."""
        speech = dequantise(batch.speech, batch.speech_steps)
        emotion = batch.emotion
        if emotion is not None:
            emotion = dequantise(emotion, batch.emotion_steps)
        frames = fuse(
            speech, emotion, batch.frame_lengths, self.recipe.emotion.pooling
        )  # (B, T, D)
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
        if losses.category:
            category = category_loss(
                logits, batch.emotions, losses.label_smoothing, self._weights_now
            )
            sums["category"] = category
        if losses.dimension and dimensions is not None:
            if losses.dimension_kind == "ccc":
                sums["dimension"] = concordance_loss(dimensions, batch.vad, moments)
            else:
                sums["dimension"] = dimension_loss(dimensions, batch.vad)
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
        if self.llm is None:
            return {}
        sums = speech.embeddings.new_zeros(len(TERMS), dtype=torch.float32)  # in bf16 runs too
        taught = 0  # rows of the teacher that earlier rows of examples used
        for row, tasks in self.packed_rows(speech, batch.targets):
            hidden = self.llm.hidden_states(row)  # (T, H)
            losses, owners = token_losses(row, hidden, self.llm.output_weight)  # (N,), (N,)
            task_of = tasks.to(owners.device)[owners]  # (N,)
            sums = sums.index_add(0, task_of, losses)
            if batch.teacher is not None:
                predictors, _ = predictions(row, hidden, self.llm.output_weight)  # (N, H)
                predictors = predictors[task_of == TERMS.index("response")]  # (n, H)
                lessons = batch.teacher[taught : taught + len(predictors)]  # (n, 2 K + 1)
                taught += len(predictors)
                divergences = token_divergences(
                    predictors, self.llm.output_weight, lessons, self.recipe.losses.kl_temperature
                )
                at = torch.tensor([TERMS.index("response_kl")], device=sums.device)
                sums = sums.index_add(0, at, divergences.sum(0, keepdim=True))
        return dict(zip(TERMS, sums, strict=True))

    def packed_rows(
        self, speech: Speech, targets: Sequence[Sequence[Target]]
    ) -> Iterator[tuple[PackedRow, Tensor]]:
        """The rows of a batch, and which loss each segment of a row belongs to, (S,) int64."""
        segment = require_llm(self.llm).segment
        for row in self._rows(speech, targets):
            prompts = {task: self.prompts[task] for task in sorted({t.task for _, t in row})}
            segments = [segment(ids=p.before) for p in prompts.values()]
            parents = {task: index for index, task in enumerate(prompts)}
            tasks = [TERMS.index(task) for task in prompts]
            heard: dict[int, int] = {}  # utterance -> the speech that its questions continue
            for index, target in row:
                task, prompt = TERMS.index(target.task), parents[target.task]
                if target.after is None:
                    after = prompts[target.task].after
                    example = segment(speech.one(index), after, target.ids, prompt)
                else:
                    if index not in heard:
                        segments.append(segment(speech.one(index), parent=prompt))
                        tasks.append(task)
                        heard[index] = len(segments) - 1
                    example = segment(None, target.after, target.ids, heard[index])
                segments.append(example)
                tasks.append(task)
            yield pack(segments), torch.tensor(tasks)

    def _rows(
        self, speech: Speech, targets: Sequence[Sequence[Target]]
    ) -> Iterator[list[tuple[int, Target]]]:
        """Examples in rows of at most `llm.row_tokens` tokens, but one at least."""
        row: list[tuple[int, Target]] = []
        room = limit = self.recipe.llm.row_tokens if self.recipe.llm else 0
        lengths = speech.lengths.tolist()
        for index, answers in enumerate(targets):
            heard = False  # in this row, by a question
            for target in answers:
                size = self._tokens(0 if heard else lengths[index], target)
                if row and size > room:
                    yield row
                    row, room, size = [], limit, self._tokens(lengths[index], target)
                row.append((index, target))
                room -= size
                heard = target.after is not None
        if row:
            yield row

    def _tokens(self, embeddings: int, target: Target) -> int:
        """Tokens of an example in a row: its speech, the prompt after it, its answer."""
        own = max(len(target.after or ()), len(target.informed or ()))
        return embeddings + (own or len(self.prompts[target.task].after)) + len(target.ids)

    def tokens(self, embeddings: int, targets: Sequence[Target]) -> int:
        """Tokens that an utterance of so many speech embeddings costs: once for each answer, but
        once for all its questions; without answers its embeddings."""
        asked = [self._tokens(0, target) for target in targets if target.after is not None]
        alone = [self._tokens(embeddings, target) for target in targets if target.after is None]
        return max(embeddings, sum(alone) + sum(asked) + (embeddings if asked else 0))

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
        lengths = speech.lengths.tolist()
        return require_llm(self.llm).continue_greedily(
            [self.prompt_embeddings(speech.one(i), task) for i in range(len(lengths))],
            max_new_tokens,
            [range(start, start + length) for length in lengths],
            limit,
        )

    @torch.inference_mode()
    def question_answers(
        self, speech: Speech, asked: Sequence[tuple[int, Sequence[int]]], max_new_tokens: int
    ) -> list[Continuation]:
        """Greedy answers to questions: of each its utterance, and token ids after the speech."""
        start = len(self.prompts["question"].before)
        return require_llm(self.llm).continue_greedily(
            [self.prompt_embeddings(speech.one(i), "question", ids) for i, ids in asked],
            max_new_tokens,
            [range(start, start + int(speech.lengths[i])) for i, _ in asked],
        )

    @torch.inference_mode()
    def label_log_likelihoods(self, speech: Speech, labels: Sequence[Sequence[int]]) -> Tensor:
        """(B, C) log-likelihood of each label's ids, end included, as the answer to the request
        for recognition."""
        llm, prompt = require_llm(self.llm), self.prompts["recognition"]
        results = [
            answer_log_likelihoods(
                llm,
                [
                    llm.segment(ids=prompt.before),
                    llm.segment(speech.one(index), prompt.after, parent=0),
                ],
                labels,
            )
            for index in range(len(speech.lengths))
        ]
        return torch.stack(results)


@torch.inference_mode()
def answer_log_likelihoods(
    llm: FrozenLLM, request: Sequence[Segment], answers: Sequence[Sequence[int]]
) -> Tensor:
    """(A,) float32 log-likelihood of each answer's ids after a request, each behind the same one.

    Args:
        request: segments, each the parent of the next.
    """
    last = len(request) - 1
    row = pack([*request, *(llm.segment(answer=ids, parent=last) for ids in answers)])
    losses, owners = token_losses(row, llm.hidden_states(row), llm.output_weight)  # (N,), (N,)
    found = losses.new_zeros(len(answers))
    return found.index_add(0, owners - len(request), -losses)


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


def require_llm(llm: FrozenLLM | None) -> FrozenLLM:
    """The LLM of a model; `ConfigError` if its recipe has none."""
    if llm is None:
        raise ConfigError(
            "this run has no LLM, so it cannot answer; train with a recipe whose "
            "losses.response or losses.recognition is above 0, as `small`"
        )
    return llm


def question_prompt(recipe: Recipe, llm: FrozenLLM, question: str) -> SpeechPrompt:
    """The token ids around speech for one question about it."""
    user = recipe.qa.prompt.replace("{question}", question)
    return llm.chat.speech_prompt(recipe.prompts.empathetic_system, user)


def speech_prompts(recipe: Recipe, llm: FrozenLLM) -> dict[str, SpeechPrompt]:
    """The token ids around speech for each kind of request, made once."""
    prompts = recipe.prompts
    return {
        "response": llm.chat.speech_prompt(prompts.empathetic_system, prompts.alignment),
        "recognition": llm.chat.speech_prompt(prompts.plain_system, prompts.recognition),
        "answer": llm.chat.speech_prompt(prompts.empathetic_system, prompts.answer),
        # What comes before speech is the same for every question; each has its own tokens after it.
        "question": question_prompt(recipe, llm, ""),
    }
