"""Examples from utterances: labels as indices, answers as token ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rellm_cache.config.qa import QASettings
from rellm_cache.config.schema import LossesConfig, PromptsConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.soft_labels import listed_shares
from rellm_cache.data.batch import IGNORED, Example, Target
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prompts import ChatFormat, question_prompt
from rellm_cache.qa.rows import QARow, read_questions


def emotion_index(utterance: Utterance, emotions: Sequence[str]) -> int:
    """Index of an utterance's emotion in `emotions`, or `IGNORED` if it is not in the list."""
    return emotions.index(utterance.emotion) if utterance.emotion in emotions else IGNORED


def emotion_shares(utterance: Utterance, emotions: Sequence[str]) -> tuple[float, ...] | None:
    """Shares of raters of each of `emotions`, which sum to 1; None without raters of them."""
    soft = utterance.soft_emotion
    return None if soft is None else listed_shares(soft, emotions)


def has_response(utterance: Utterance) -> bool:
    """Whether an utterance has an expected response that is not blank."""
    return bool(utterance.response and utterance.response.strip())


Questions = Mapping[str, Sequence[QARow]]  # utterance id -> questions about it


def make_examples(
    utterances: Iterable[Utterance],
    recipe: Recipe,
    llm: FrozenLLM | None,
    questions: Questions = MappingProxyType({}),
) -> list[Example]:
    """Make the example of each utterance: labels as indices, answers as token ids."""
    emotions, examples = recipe.heads.emotions, []
    for u in utterances:
        targets: list[Target] = []
        if llm is not None:
            targets += _targets(u, recipe.losses, emotions, llm)
            rows = questions.get(u.id, ())
            targets += _question_targets(rows, recipe.prompts, recipe.qa, llm)
        index, shares = emotion_index(u, emotions), emotion_shares(u, emotions)
        examples.append(Example(u.id, index, u.vad, tuple(targets), shares))
    return examples


def _targets(
    utterance: Utterance, losses: LossesConfig, emotions: Sequence[str], llm: FrozenLLM
) -> Iterable[Target]:
    if losses.learns_responses and has_response(utterance):
        yield Target("response_lm", response_ids(utterance, llm.chat))
    labelled = emotion_index(utterance, emotions) != IGNORED
    if "emotion_lm" in losses.tasks and labelled:
        yield Target("emotion_lm", llm.chat.ids(utterance.emotion or "") + llm.chat.end_ids)


def _question_targets(
    rows: Sequence[QARow], prompts: PromptsConfig, qa: QASettings, llm: FrozenLLM
) -> Iterable[Target]:
    """Yield a target for each question; metadata stands before the question."""
    for row in rows:
        prompt = question_prompt(llm.chat, prompts, qa, row.question)
        after = None
        if row.metadata:
            question = f"{row.metadata} {row.question}"
            after = question_prompt(llm.chat, prompts, qa, question).after
        yield Target("qa_lm", llm.chat.ids(row.answer) + prompt.end, prompt.after, after)


def load_questions(
    losses: LossesConfig, qa: QASettings, manifest: Path, splits: Sequence[str]
) -> Questions:
    """Questions that a recipe trains on, if any; `ManifestError` if their file is missing."""
    if "qa_lm" not in losses.tasks:
        return {}
    return read_questions(manifest, qa.modes, qa.kinds, splits)


def data_digest(
    splits: Iterable[Sequence[Utterance]],
    losses: LossesConfig,
    questions: Questions,
    streams: StreamSet,
) -> str:
    """SHA-256 (hex) of the data that a recipe trains on: audio, labels and answers, in order.

    It does not cover paths of audio, or labels that no loss of the recipe uses.
    """

    def content(utterance: Utterance) -> list[object]:
        known: list[object] = [utterance.id, utterance.emotion, utterance.vad]
        if utterance.soft_emotion is not None:
            known.append(sorted(utterance.soft_emotion.items()))
        if (audio := streams.audio_sha256(utterance.id)) is not None:
            known.append(audio)
        if losses.learns_responses:
            known += [utterance.response, utterance.early_stop]
        rows = questions.get(utterance.id, ())
        return [*known, [[row.question, row.answer, row.metadata] for row in rows]]

    return digest([[content(utterance) for utterance in split] for split in splits])


def response_ids(utterance: Utterance, chat: ChatFormat) -> tuple[int, ...]:
    """Token ids of an utterance's expected response, with end tokens if it is complete."""
    ids = chat.ids(utterance.response or "")
    return ids if utterance.early_stop else ids + chat.end_ids


def label_ids(emotions: Sequence[str], llm: FrozenLLM) -> list[tuple[int, ...]]:
    """Token ids of each emotion as a complete answer."""
    return [llm.chat.ids(name) + llm.chat.end_ids for name in emotions]


def describe_unlisted(utterances: Sequence[Utterance], emotions: Sequence[str]) -> list[str]:
    """Notes on clips without an emotion that a recipe names, although they have a label."""
    unknown = Counter(u.emotion for u in utterances if u.emotion and u.emotion not in emotions)
    total = len(utterances)
    notes = [
        f"{count} of {total} clips are {emotion!r}, which heads.emotions leaves out"
        for emotion, count in unknown.items()
    ]
    if tied := sum(u.soft_emotion is not None and u.emotion is None for u in utterances):
        notes.append(f"{tied} of {total} clips have no majority, as raters tie")
    return notes


def describe_missing_labels(utterances: Sequence[Utterance], recipe: Recipe) -> list[str]:
    """Notes on missing labels and responses that the recipe's losses need."""
    notes = []
    total = len(utterances)
    notes += describe_unlisted(utterances, recipe.heads.emotions)
    without = sum(not has_response(u) for u in utterances)
    if recipe.losses.learns_responses and without:
        notes.append(f"{without} of {total} clips have no response; `rellm respond` makes them")
    pseudo = sum(u.vad_source == "pseudo" for u in utterances)
    if recipe.losses.vad and recipe.heads.dimensions and pseudo:
        notes.append(
            f"{pseudo} of {total} clips have pseudo dimensions, predicted by the emotion encoder: "
            "scores against them do not measure agreement with people"
        )
    return notes
