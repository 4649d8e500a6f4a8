"""Packing of examples: which examples share a row of the LLM, and the token cost of each.

Examples of one task share the prompt before their speech; questions about an utterance share its
speech too.
"""

from collections.abc import Iterator, Mapping, Sequence

from rellm_cache.data.batch import Target
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.packed_rows import PackedRow, pack
from rellm_cache.llm.prompts import SpeechPrompt
from rellm_cache.model.adapter import Speech


class ExampleRows:
    """Packing of examples into rows of at most `pack_length` tokens; a longer one fills a row."""

    def __init__(
        self, llm: FrozenLLM, prompts: Mapping[str, SpeechPrompt], pack_length: int
    ) -> None:
        self._llm = llm
        self._prompts = prompts
        self._pack_length = pack_length

    def packed(
        self, speech: Speech, targets: Sequence[Sequence[Target]]
    ) -> Iterator[tuple[PackedRow, list[str]]]:
        """The rows of a batch, and the task of each segment of a row."""
        segment = self._llm.segment
        for row in self._split(speech, targets):
            prompts = {task: self._prompts[task] for task in sorted({t.task for _, t in row})}
            segments = [self._llm.prefix_segment(p.before) for p in prompts.values()]
            parents = {task: index for index, task in enumerate(prompts)}
            tasks: list[str] = list(prompts)
            heard: dict[int, int] = {}  # utterance -> segment of the speech before its questions
            for index, target in row:
                task, prompt = target.task, parents[target.task]
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
            yield pack(segments), tasks

    def _split(
        self, speech: Speech, targets: Sequence[Sequence[Target]]
    ) -> Iterator[list[tuple[int, Target]]]:
        row: list[tuple[int, Target]] = []
        room = limit = self._pack_length
        lengths = speech.counts
        for index, answers in enumerate(targets):
            heard = False  # whether a question in this row has the speech
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
        """Tokens of an example in a row: its speech, the prompt after the speech, and its answer
        without the last token."""
        own = max(len(target.after or ()), len(target.after_with_metadata or ()))
        after = own or len(self._prompts[target.task].after)
        return embeddings + after + max(len(target.ids) - 1, 0)

    def tokens(self, embeddings: int, targets: Sequence[Target]) -> int:
        """Token cost of an utterance with this number of speech embeddings. The speech counts once
        for each answer, once for all questions together, and once without any answer."""
        asked = [self._tokens(0, target) for target in targets if target.after is not None]
        alone = [self._tokens(embeddings, target) for target in targets if target.after is None]
        return max(embeddings, sum(alone) + sum(asked) + (embeddings if asked else 0))
