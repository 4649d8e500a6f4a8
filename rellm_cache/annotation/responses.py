"""respond, step 1. In: a manifest with transcripts and emotions. Out: expected responses beside it.

The chat LLM continues each transcript in the tone of its emotion, greedily. Equal prompts are
answered once. Responses that the paper's rules drop are counted by reason and kept out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rellm_cache.annotation.text_replies import Writing, ask
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import (
    Utterance,
    manifest_files,
    read_lines,
    read_manifest,
    responses_path,
)
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import Continuation
from rellm_cache.llm.loading import llm_identity, load_llm
from rellm_cache.llm.refusals import refusal_reason
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.result_table import Journal, journal_beside, read_journal


@dataclass(frozen=True)
class RespondReport:
    """What step 1 wrote for one manifest file.

    Attributes:
        path: of the responses.
        written: utterances with a response.
        generated: prompts the LLM answered now; the rest were answered before.
        dropped: reason → utterances.
    """

    path: Path
    written: int
    generated: int
    dropped: dict[str, int]


def respond(
    manifest: Path, recipe: Recipe, batch_size: int = 16, device: torch.device | None = None
) -> list[RespondReport]:
    """Write `<split>.responses.jsonl` beside each manifest file.

    Raises:
        ConfigError: the recipe has no LLM.
        ManifestError: the manifest cannot be read.
    """
    config = recipe.require_llm()
    device = device or default_device()
    loaded: list[FrozenLLM] = []

    def llm() -> FrozenLLM:
        """Loaded once, and only when some prompt has no answer yet."""
        if not loaded:
            loaded.append(load_llm(config, device))
        return loaded[0]

    answers = _Answers(recipe, llm, batch_size)
    return [_respond_to(file, recipe, answers) for file in manifest_files(manifest)]


def generator_id(recipe: Recipe) -> str:
    """What decides a response, in 12 hex digits: model, quantisation, wording, limits.

    Raises:
        ConfigError: the recipe has no LLM, or its folder is not whole.
    """
    prompts = recipe.prompts
    return digest(
        {
            "llm": llm_identity(recipe.require_llm()),
            "system": prompts.empathetic_system,
            "prompt": prompts.expected_response,
            "tokens": prompts.expected_response_tokens,
        }
    )[:12]


class _Answers:
    """Prompts and their answers: asked for once, kept in a file until the manifest is done."""

    def __init__(self, recipe: Recipe, llm: Callable[[], FrozenLLM], batch_size: int) -> None:
        self.recipe = recipe
        self.generator = generator_id(recipe)
        self._llm = llm
        self._batch_size = batch_size
        self.known: dict[str, Continuation] = {}
        self.lengths: dict[str, int] = {}

    def ask(self, prompts: Sequence[str], file: Path) -> int:
        """Answer the prompts not known yet, appending each reply to a journal; how many."""
        self._recall(file)
        unknown = {p for p in prompts if p not in self.known}
        if not unknown:
            return 0
        settings = self.recipe.prompts
        writing = Writing(settings.empathetic_system, settings.expected_response_tokens)
        with (
            progress("Responding", len(unknown), "prompts") as tick,
            Journal(file) as journal,
        ):
            for answer in ask(self._llm(), unknown, writing, self._batch_size):
                self.known[answer.prompt] = answer.reply
                self.lengths[answer.prompt] = answer.length
                row = {"prompt": answer.prompt, "length": answer.length, **asdict(answer.reply)}
                journal.append({**row, "generator": self.generator})
                tick()
        return len(unknown)

    def _recall(self, file: Path) -> None:
        """Take up the answers that an interrupted run left."""
        for row in read_journal(file):
            if row["generator"] == self.generator:
                self.known[row["prompt"]] = Continuation(row["text"], row["early_stop"])
                self.lengths[row["prompt"]] = row["length"]


def _respond_to(file: Path, recipe: Recipe, answers: _Answers) -> RespondReport:
    utterances, template = read_manifest(file), recipe.prompts.expected_response
    out = responses_path(file)
    journal = journal_beside(out)
    finished = _finished(out, answers.generator)
    waiting = [
        u
        for u in utterances
        if finished.get(u.id, {}).get("prompt") != response_request(u, template)
    ]
    asked = [p for u in waiting if (p := response_request(u, template)) is not None]
    generated = answers.ask(asked, journal)
    rows = []
    for utterance in utterances:
        prompt = response_request(utterance, template)
        row = finished.get(utterance.id)
        if row is None or prompt is None or row.get("prompt") != prompt:
            row = _row(utterance, prompt, answers)
        elif "length" in row:  # rows of earlier versions do not tell it, and stay as they are
            text = row.get("response", row.get("text", ""))
            reply = Continuation(text, bool(row.get("early_stop")))
            base = _base(utterance, answers.generator, prompt)
            row = _judged(base, reply, row["length"], recipe)
        rows.append(row)
    write_lines(out, rows)
    journal.unlink(missing_ok=True)
    dropped = Counter(row["dropped"] for row in rows if "dropped" in row)
    return RespondReport(out, len(rows) - dropped.total(), generated, dict(dropped))


def _finished(out: Path, generator: str) -> dict[str, dict[str, Any]]:
    rows = [row for _, row in read_lines(out)] if out.exists() else []
    return {row["id"]: row for row in rows if row.get("generator") == generator}


def response_request(utterance: Utterance, template: str) -> str | None:
    """The user's turn of step 1; None without a transcript or an emotion."""
    if not utterance.text or not utterance.emotion:
        return None
    return template.replace("{emotion}", utterance.emotion).replace("{transcript}", utterance.text)


def _row(utterance: Utterance, prompt: str | None, answers: _Answers) -> dict[str, Any]:
    if prompt is None:
        missing = "transcript" if not utterance.text else "emotion"
        return {**_base(utterance, answers.generator), "dropped": f"no {missing}"}
    base = _base(utterance, answers.generator, prompt)
    return _judged(base, answers.known[prompt], answers.lengths[prompt], answers.recipe)


def _base(utterance: Utterance, generator: str, prompt: str = "") -> dict[str, Any]:
    """Whose row it is, who wrote it, and to what."""
    row = {"id": utterance.id, "generator": generator}
    return {**row, "prompt": prompt} if prompt else row


def _judged(
    base: dict[str, Any], reply: Continuation, length: int, recipe: Recipe
) -> dict[str, Any]:
    """A row with its reply, as a response or as what was dropped; by the rules as they are now."""
    limit = recipe.prompts.example_tokens
    reason = refusal_reason(reply.text)
    if reason is None and length > limit:
        reason = f"longer than {limit} tokens"
    if reason is not None:
        kept: dict[str, Any] = {"dropped": reason, "text": reply.text}
    else:
        kept = {"response": reply.text}
    return {**base, **kept, "early_stop": reply.early_stop, "length": length}
