"""Examples from utterances: labels as indices, answers as token ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.data.batch import IGNORED, Example, Target
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prompts import ChatFormat, question_prompt
from rellm_cache.qa.rows import QARow, read_questions


def emotion_index(utterance: Utterance, emotions: Sequence[str]) -> int:
    """Index of an utterance's emotion in a recipe's emotions, `IGNORED` if it is not one."""
    return emotions.index(utterance.emotion) if utterance.emotion in emotions else IGNORED


Questions = Mapping[str, Sequence[QARow]]  # about each utterance, by id


def make_examples(
    utterances: Iterable[Utterance],
    recipe: Recipe,
    llm: FrozenLLM | None,
    questions: Questions = MappingProxyType({}),
) -> list[Example]:
    """What training sees of each utterance: labels, and answers as token ids."""
    return [
        Example(
            id=u.id,
            emotion=emotion_index(u, recipe.heads.emotions),
            vad=u.vad,
            targets=()
            if llm is None
            else (*_targets(u, recipe, llm), *_asked(questions.get(u.id, ()), recipe, llm)),
        )
        for u in utterances
    ]


def _targets(utterance: Utterance, recipe: Recipe, llm: FrozenLLM) -> Iterable[Target]:
    end = llm.chat.ids(llm.chat.end_text)
    if recipe.losses.learns_responses and utterance.response:
        yield Target("response_lm", response_ids(utterance, llm.chat))
    labelled = emotion_index(utterance, recipe.heads.emotions) != IGNORED
    if "emotion_lm" in recipe.losses.tasks and labelled:
        yield Target("emotion_lm", llm.chat.ids(utterance.emotion or "") + end)


def _asked(rows: Sequence[QARow], recipe: Recipe, llm: FrozenLLM) -> Iterable[Target]:
    """A target for each question; explicit ones also know their metadata, said before it."""
    for row in rows:
        prompt = question_prompt(llm.chat, recipe.prompts, recipe.qa, row.question)
        informed = None
        if row.metadata:
            informed = question_prompt(
                llm.chat, recipe.prompts, recipe.qa, f"{row.metadata} {row.question}"
            ).after
        yield Target("qa_lm", llm.chat.ids(row.answer) + prompt.end, prompt.after, informed)


def questions_of(recipe: Recipe, manifest: Path, splits: Sequence[str]) -> Questions:
    """The questions beside a manifest that a recipe learns from, by utterance; none without
    `losses.qa_lm`.

    Raises:
        ManifestError: it learns from them, and they are not there.
    """
    if "qa_lm" not in recipe.losses.tasks:
        return {}
    return read_questions(manifest, recipe.qa.modes, recipe.qa.kinds, splits)


def learned_from(
    splits: Iterable[Sequence[Utterance]], recipe: Recipe, questions: Questions, streams: StreamSet
) -> str:
    """Digest of all that a recipe learns from: clips, labels and answers, in their order.

    Where audio lies, and what the recipe's losses do not ask for, is no part of it.

    Args:
        splits: utterances of the train split, then of the validation split.
    """

    def facts(utterance: Utterance) -> list[object]:
        known: list[object] = [utterance.id, utterance.emotion, utterance.vad]
        if (audio := streams.audio_sha256(utterance.id)) is not None:
            known.append(audio)
        if recipe.losses.learns_responses:
            known += [utterance.response, utterance.early_stop]
        asked = questions.get(utterance.id, ())
        return [*known, [[row.question, row.answer, row.metadata] for row in asked]]

    return digest([[facts(utterance) for utterance in split] for split in splits])


def response_ids(utterance: Utterance, chat: ChatFormat) -> tuple[int, ...]:
    """Token ids of an utterance's expected response, end tokens included if it is complete."""
    ids = chat.ids(utterance.response or "")
    return ids if utterance.early_stop else ids + chat.ids(chat.end_text)


def label_ids(emotions: Sequence[str], llm: FrozenLLM) -> list[tuple[int, ...]]:
    """Token ids of each emotion as a complete answer."""
    end = llm.chat.ids(llm.chat.end_text)
    return [llm.chat.ids(name) + end for name in emotions]


def describe_gaps(utterances: Sequence[Utterance], recipe: Recipe) -> list[str]:
    """What of a recipe's losses these utterances cannot teach, as readable notes."""
    notes = []
    total = len(utterances)
    foreign = Counter(
        u.emotion
        for u in utterances
        if u.emotion and emotion_index(u, recipe.heads.emotions) == IGNORED
    )
    for emotion, count in foreign.items():
        notes.append(f"{count} of {total} clips are {emotion!r}, which heads.emotions leaves out")
    silent = sum(u.response is None for u in utterances)
    if recipe.losses.learns_responses and silent:
        notes.append(f"{silent} of {total} clips have no response; `rellm respond` makes them")
    if recipe.losses.vad and recipe.heads.dimensions and not any(u.vad for u in utterances):
        has_head = recipe.vad_encoder is not None
        remedy = "; `rellm annotate` takes them from the emotion encoder" if has_head else ""
        notes.append(
            f"no clip has dimensions: the dimension loss has nothing to learn from{remedy}"
        )
    pseudo = sum(u.vad_source == "pseudo" for u in utterances)
    if recipe.losses.vad and recipe.heads.dimensions and pseudo:
        notes.append(
            f"{pseudo} of {total} clips have pseudo dimensions, which the emotion encoder said "
            "itself: to agree with them is not to agree with people"
        )
    return notes
