"""Answers of a trained run to questions about speech, without metadata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.streams import StreamSet
from rellm_cache.evaluation.judge_scores import too_long
from rellm_cache.llm.frozen import require_llm
from rellm_cache.llm.prompts import question_prompt
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.qa.rows import QARow
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import load_run
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.resumable_table import Row
from rellm_cache.workers.rows import MakeRows, Rows, RowTask


@dataclass(frozen=True)
class QuestionTask(RowTask):
    """The task of a worker that lets a run answer questions from the speech."""

    run_folder: Path
    manifest: Path
    cache: Path

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the run and its LLM."""
        return self.load_with(SharedModels())

    def load_with(self, resources: SharedModels) -> MakeRows:
        """Load the run, with an LLM that other runs of this process may have."""
        device = self.device or default_device()
        recipe, model = load_run(self.run_folder, device, resources.llm)

        def answer(rows: Sequence[QARow]) -> Rows:
            places = {clip: place for place, clip in enumerate(dict.fromkeys(r.id for r in rows))}
            streams = self.streams(recipe, [*places], resources)
            loader = BatchLoader([Example(clip) for clip in places], streams, device)
            starts = range(0, len(rows), self.batch_size)
            parts = [rows[start : start + self.batch_size] for start in starts]
            plan = [[places[clip] for clip in dict.fromkeys(r.id for r in part)] for part in parts]
            batches = loader.batches(plan, reuse_memory=True)
            for part, batch in zip(parts, batches, strict=True):
                yield from _answer_batch(model, recipe, batch.to(device), part)

        return answer

    def streams(self, recipe: Recipe, clips: list[str], resources: SharedModels) -> StreamSet:
        """The frames of clips; `StoreError` if the cache lacks some."""
        return resources.run_streams(self.run_folder, recipe, self.manifest, self.cache, clips)

    def in_order(self, rows: Sequence[QARow], streams: StreamSet) -> list[QARow]:
        """Rows by the length of their clips, so that the clips of a batch have similar lengths."""
        lengths = streams.lengths([row.id for row in rows]).tolist()
        order = sorted(range(len(rows)), key=lambda i: (lengths[i], rows[i].id))
        return [rows[i] for i in order]


@torch.inference_mode()
def _answer_batch(
    model: SpeechLLM, recipe: Recipe, batch: Batch, rows: Sequence[QARow]
) -> list[tuple[str, Row]]:
    """Keys of rows, and the answers to their questions about the clips of a batch."""
    llm, speech = require_llm(model.llm), model.speech(batch)
    before, most = len(model.prompts["qa_lm"].before), recipe.qa.judge.answer_tokens
    found: list[tuple[str, Row]] = []
    asked, questions = [], []
    for row in rows:
        place = batch.ids.index(row.id)
        ids = question_prompt(llm.chat, recipe.prompts, recipe.qa, row.question).after
        needed = before + speech.counts[place] + len(ids) + most
        if llm.has_positions(needed):
            asked.append(row)
            questions.append((place, ids))
        else:
            found.append((row.key, {"dropped": too_long("question", needed, llm)}))
    replies = model.question_answers(speech, questions, most) if asked else []
    for row, reply in zip(asked, replies, strict=True):
        found.append((row.key, {"answer": reply.text}))
    return found
