"""respond, step 1. In: a manifest with transcripts and emotions. Out: expected responses beside it.

The chat LLM continues each transcript in the tone of its emotion, greedily. Equal prompts are
answered once. Responses that the paper's rules drop are counted by reason and kept out.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
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
from rellm_cache.llm.loading import llm_identity, load_llm
from rellm_cache.llm.refusals import refusal_reason
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, Row, with_fingerprint


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
    load = cache(lambda: load_llm(config, device or default_device()))
    fingerprint = reply_fingerprint(recipe)
    replies: dict[str, Row] = {}  # by prompt, of every file: equal prompts are answered once
    return [
        _respond_to(file, recipe, fingerprint, replies, load, batch_size)
        for file in manifest_files(manifest)
    ]


def reply_fingerprint(recipe: Recipe) -> str:
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


def _respond_to(
    file: Path,
    recipe: Recipe,
    fingerprint: str,
    replies: dict[str, Row],
    load: Callable[[], FrozenLLM],
    batch_size: int,
) -> RespondReport:
    utterances, out = read_manifest(file), responses_path(file)
    before = [with_fingerprint(row) for _, row in read_lines(out)] if out.exists() else []
    finished = [row for row in before if row.get(FINGERPRINT) == fingerprint and "prompt" in row]
    known = [_reply_of(row) for row in finished if "length" in row]
    table = ResultTable(out, fingerprint, [*replies.values(), *known])
    # Rows of early versions do not tell their length and stay as they are.
    old = {(row["id"], row["prompt"]): row for row in finished if "length" not in row}
    prompts = {u.id: response_request(u, recipe.prompts.expected_response) for u in utterances}
    left = table.missing(p for i, p in prompts.items() if p is not None and (i, p) not in old)
    if left:
        writing = Writing(recipe.prompts.empathetic_system, recipe.prompts.expected_response_tokens)
        with progress("Responding", len(left), "prompts") as tick, table:
            for answer in ask(load(), left, writing, batch_size):
                table.add(answer.prompt, length=answer.length, **asdict(answer.reply))
                tick()
    rows = []
    for utterance in utterances:
        prompt = prompts[utterance.id]
        own = {"id": utterance.id, FINGERPRINT: fingerprint}
        if prompt is None:
            missing = "transcript" if not utterance.text else "emotion"
            rows.append({**own, "dropped": f"no {missing}"})
        else:
            row = old.get((utterance.id, prompt))
            rows.append(row or {**own, "prompt": prompt, **_judged(table[prompt], recipe)})
    table.finish(rows)
    replies |= {prompt: dict(table[prompt]) for prompt in table}
    dropped = Counter(row["dropped"] for row in rows if "dropped" in row)
    return RespondReport(out, len(rows) - dropped.total(), len(left), dict(dropped))


def _reply_of(row: Row) -> Row:
    """The reply to a prompt, as the row of an utterance holds it."""
    text = row.get("response", row.get("text", ""))
    kept = {name: row.get(name) for name in (FINGERPRINT, "early_stop", "length")}
    return {"id": row["prompt"], "text": text, **kept}


def _judged(reply: Mapping[str, Any], recipe: Recipe) -> Row:
    """A reply as a response, or as dropped with the reason, by today's rules and limits."""
    limit = recipe.prompts.example_tokens
    reason = refusal_reason(reply["text"])
    if reason is None and reply["length"] > limit:
        reason = f"longer than {limit} tokens"
    kept = {"dropped": reason, "text": reply["text"]} if reason else {"response": reply["text"]}
    return {**kept, "early_stop": bool(reply["early_stop"]), "length": reply["length"]}


def response_request(utterance: Utterance, template: str) -> str | None:
    """The user's turn of step 1; None without a transcript or an emotion."""
    if not utterance.text or not utterance.emotion:
        return None
    return template.replace("{emotion}", utterance.emotion).replace("{transcript}", utterance.text)
