"""Expected responses (step 1): the chat LLM continues each transcript in the tone of its emotion.

Decoding is greedy, and equal prompts are answered once. Responses dropped by the paper's rules are
counted by reason and not used in training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rellm_cache.annotation.endpoint import Endpoint, ask_endpoint
from rellm_cache.annotation.text_replies import Reply, ReplyTask, Writing, ask, ask_workers
from rellm_cache.config.schema import LLMConfig, PromptsConfig, Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import (
    Utterance,
    manifest_files,
    read_lines,
    read_manifest,
    responses_path,
)
from rellm_cache.llm.loading import llm_identity, load_chat, load_llm, with_text_files
from rellm_cache.llm.prompts import fill_placeholders
from rellm_cache.llm.refusals import EMPTY, refusal_reason
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.overwriting import overwriting
from rellm_cache.utils.resumable_table import (
    FINGERPRINT,
    ResultTable,
    Row,
    fingerprint_of,
    same_inputs,
    with_fingerprint,
)
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.shards import Output, hold_output


@dataclass(frozen=True)
class RespondReport:
    """What `respond` wrote for one manifest file."""

    path: Path  # file of the responses
    written: int  # utterances with a response
    generated: int  # prompts answered in this call; the others were answered before
    dropped: dict[str, int]  # reason → number of utterances
    unfinished: str = ""  # why the file was not written: other shards have prompts left


def respond(
    manifest: Path,
    recipe: Recipe,
    batch_size: int = 64,
    device: torch.device | None = None,
    overwrite: bool = False,
    endpoint: Endpoint | None = None,
    options: WorkerOptions | None = None,
) -> list[RespondReport]:
    """Write `<split>.responses.jsonl` next to each manifest file.

    Args:
        batch_size: answers written at a time, or requests sent side by side to an endpoint.
        overwrite: replace responses that `respond` did not write.
        endpoint: a server that writes the responses; None for the recipe's own LLM. Lengths are
            counted in tokens of the recipe's LLM in both cases.
        options: workers and shard; None does all work in this process. A shard is one of prompts.

    Raises:
        RellmError: responses there are not from `respond`, or another process writes them.
        ConfigError: the recipe has no LLM.
        ManifestError: the manifest cannot be read.
        RellmError: the endpoint refuses a request, or fails again and again.
    """
    config = recipe.require_llm()
    chat = load_chat(config)
    options = options or WorkerOptions()
    load = cache(lambda: load_llm(config, device or default_device()))

    def answers(prompts: Iterable[str]) -> Iterator[Reply]:
        texts = recipe.prompts
        writing = Writing(texts.empathetic_system, texts.expected_response_tokens)
        if endpoint is not None:
            return ask_endpoint(endpoint, chat, prompts, writing, batch_size)
        if options.has_workers:
            task = ReplyTask(batch_size, config, writing, device=device)
            return ask_workers(task, prompts, options)
        return ask(load(), prompts, writing, batch_size)

    fingerprint = reply_fingerprint(config, recipe.prompts, endpoint)
    limit = recipe.prompts.example_tokens, len(chat.end_ids)
    replies: dict[str, Row] = {}  # by prompt, of all files
    reports, files = [], manifest_files(manifest)
    for out in [] if overwrite else map(responses_path, files):
        if out.exists() and not all(fingerprint_of(row) for _, row in read_lines(out)):
            raise overwriting(
                out, "of `rellm respond`", "keep it, or write new responses with --overwrite"
            )
    work = _Work(recipe.prompts, limit, fingerprint, replies, answers, options)
    for file in files:
        reports.append(_respond_to(file, work))
    return reports


def reply_fingerprint(
    llm: LLMConfig, prompts: PromptsConfig, endpoint: Endpoint | None = None
) -> str:
    """Digests of everything that a reply depends on, except the prompt."""
    writer = llm_identity(llm) if endpoint is None else {"endpoint": endpoint.identity}
    fingerprint = digest(
        {
            "llm": writer,
            "system": prompts.empathetic_system,
            "prompt": prompts.expected_response,
            "tokens": prompts.expected_response_tokens,
        }
    )[:12]
    return with_text_files(fingerprint, llm)


@dataclass(frozen=True)
class _Work:
    """What the files of a manifest share."""

    prompts: PromptsConfig
    limit: tuple[int, int]  # tokens of request and reply, and those that end a reply
    fingerprint: str
    replies: dict[str, Row]  # by prompt, of the files before
    answers: Callable[[Iterable[str]], Iterator[Reply]]
    options: WorkerOptions


def _respond_to(file: Path, work: _Work) -> RespondReport:
    out = responses_path(file)
    with hold_output(out, work.options.shard) as output:
        return _respond(read_manifest(file), out, output, work)


def _respond(
    utterances: Sequence[Utterance], out: Path, output: Output, work: _Work
) -> RespondReport:
    fingerprint, replies = work.fingerprint, work.replies
    before = [with_fingerprint(row) for _, row in read_lines(out)] if out.exists() else []
    finished = [
        row
        for row in before
        if same_inputs(fingerprint, row.get(FINGERPRINT, "")) and "prompt" in row
    ]
    known = [_reply_of(row) for row in finished if "length" in row]
    table = ResultTable(out, fingerprint, known, output.part)
    # Rows of early versions have no length and stay as they are.
    old = {(row["id"], row["prompt"]): row for row in finished if "length" not in row}
    requests = {u.id: response_request(u, work.prompts.expected_response) for u in utterances}
    asked = [p for i, p in requests.items() if p is not None and (i, p) not in old]
    left = [prompt for prompt in table.missing(asked) if work.options.takes(prompt)]
    new = [prompt for prompt in left if prompt not in replies]
    if left:

        def results() -> Iterator[tuple[str, Row]]:
            for prompt in (p for p in left if p in replies):
                yield prompt, {k: v for k, v in replies[prompt].items() if k != "id"}
            for answer in work.answers(new) if new else ():
                fields = {"length": answer.length, "refused": answer.refused}
                yield answer.prompt, fields | answer.reply.row

        table.fill("Responding", len(left), "prompts", results())
    unfinished = output.why_unfinished(table, "prompt", lambda: table.missing(asked))
    replies |= {prompt: dict(table[prompt]) for prompt in table}
    if unfinished:
        return RespondReport(out, 0, len(new), {}, unfinished)
    rows = []
    for utterance in utterances:
        prompt = requests[utterance.id]
        made = table[prompt].get(FINGERPRINT, fingerprint) if prompt else fingerprint
        own = {"id": utterance.id, FINGERPRINT: made}
        if prompt is None:
            missing = "transcript" if not utterance.text.strip() else "emotion"
            rows.append({**own, "dropped": f"no {missing}"})
        else:
            row = old.get((utterance.id, prompt))
            rows.append(
                row
                or {
                    **own,
                    "prompt": prompt,
                    **_accept_or_drop(table[prompt], *work.limit),
                }
            )
    table.finish(rows)
    dropped = Counter(row["dropped"] for row in rows if "dropped" in row)
    return RespondReport(out, len(rows) - dropped.total(), len(new), dict(dropped))


def _reply_of(row: Row) -> Row:
    """The reply to a prompt, from the row of an utterance."""
    text = row.get("response", row.get("text", ""))
    kept = {name: row.get(name) for name in (FINGERPRINT, "early_stop", "length")}
    reason = row.get("dropped", "")
    refused = "" if text or reason == EMPTY else reason
    return {"id": row["prompt"], "text": text, "refused": refused, **kept}


def _accept_or_drop(reply: Mapping[str, Any], limit: int, end: int) -> Row:
    """Mark a reply as accepted or dropped.

    `limit` counts tokens of request and reply, and the `end` tokens that complete a reply.
    """
    reason = reply.get("refused") or refusal_reason(reply["text"])
    if reason is None and reply["length"] + (0 if reply["early_stop"] else end) > limit:
        reason = f"longer than {limit} tokens"
    kept = {"dropped": reason, "text": reply["text"]} if reason else {"response": reply["text"]}
    return {**kept, "early_stop": bool(reply["early_stop"]), "length": reply["length"]}


def response_request(utterance: Utterance, template: str) -> str | None:
    """The user's turn of step 1; None if the transcript or the emotion is missing."""
    if not utterance.text.strip() or not utterance.emotion:
        return None
    values = {"emotion": utterance.emotion, "transcript": utterance.text}
    return fill_placeholders(template, values)
