"""Scores of the judge: how well an answer agrees with its reference, by an LLM or by a server.

The score is the mean of the levels 0 to `qa.judge.top`, weighted by their likelihoods. An LLM that
runs here weighs each level as the whole reply; of a server's reply only the first token is known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rellm_cache.annotation.endpoint import LIKELIEST, Endpoint, FirstTokens, first_tokens
from rellm_cache.config.qa import JudgeSettings
from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import llm_identity, load_llm
from rellm_cache.llm.prompts import fill_placeholders
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods
from rellm_cache.qa.rows import QARow
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.resumable_table import Row
from rellm_cache.workers.rows import MakeRows, Rows, RowTask

BLANK = " \n▁Ġ"  # white space in the texts of tokens, as servers write it


def judge_identity(judge: LLMConfig | Endpoint) -> dict[str, Any]:
    """What decides a judge's scores besides the request."""
    if isinstance(judge, Endpoint):
        return {"endpoint": judge.identity, "first_tokens": LIKELIEST}
    return llm_identity(judge)


def judge_request(row: QARow, answer: str, settings: JudgeSettings) -> str:
    """The user's turn for the judge about one answer."""
    values = {
        "top": str(settings.top),
        "question": row.question,
        "reference": row.answer,
        "answer": answer,
    }
    return fill_placeholders(settings.request, values)


@dataclass(frozen=True)
class JudgeRequest:
    """What the judge is asked about one answer.

    Attributes:
        key: of the row that gets the score.
        text: the user's turn.
    """

    key: str
    text: str


@dataclass(frozen=True)
class ScoreTask(RowTask):
    """The task of a worker that scores answers with an LLM, one request after the other."""

    judge: LLMConfig
    settings: JudgeSettings

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the LLM."""
        return self.load_with(load_llm(self.judge, self.device or default_device()))

    def load_with(self, llm: FrozenLLM) -> MakeRows:
        """Score with an LLM that other runs of this process may have."""
        end, settings = llm.chat.end_ids, self.settings
        levels = [llm.chat.ids(str(number)) + end for number in range(settings.top + 1)]
        values = torch.arange(len(levels), device=llm.device, dtype=torch.float32)

        def score(requests: Sequence[JudgeRequest]) -> Rows:
            for request in requests:
                ids = llm.chat.text_prompt(settings.system, request.text)
                needed = len(ids) + max(map(len, levels))
                if not llm.has_positions(needed):
                    yield request.key, {"dropped": too_long("request to the judge", needed, llm)}
                    continue
                likely = answer_log_likelihoods(llm, [llm.segment(ids=ids)], levels)  # (top + 1,)
                yield request.key, {"score": float(likely.softmax(0) @ values)}

        return score


def scores_by_server(
    requests: Mapping[str, JudgeRequest], settings: JudgeSettings, endpoint: Endpoint, at_once: int
) -> Iterator[tuple[str, Row]]:
    """Keys of rows, and their scores by a server; equal requests are sent once.

    Errors are those of `first_tokens`.
    """
    keys: dict[str, list[str]] = {}
    for request in requests.values():
        keys.setdefault(request.text, []).append(request.key)
    for text, tokens in first_tokens(endpoint, keys, settings.system, at_once):
        for key in keys[text]:
            yield key, score_first_tokens(tokens, settings.top)


def score_first_tokens(tokens: FirstTokens, top: int) -> Row:
    """The mean of the levels that are first tokens, weighted by likelihood, and their share.

    A row without a level is dropped.
    """
    levels = {str(number): float(number) for number in range(top + 1)}
    shares = [(levels.get(text.strip(BLANK)), np.exp(likely)) for text, likely in tokens]
    known = [(level, share) for level, share in shares if level is not None]
    total = float(sum(share for _, share in known))
    if not total:
        likeliest = repr(tokens[0][0]) if tokens else "none"
        return {
            "dropped": f"none of the {len(tokens)} likeliest first tokens of the server is a level "
            f"from 0 to {top}; the likeliest is {likeliest}"
        }
    mean = float(sum(level * share for level, share in known)) / total
    return {"score": mean, "level_share": total}


def too_long(what: str, needed: int, llm: FrozenLLM) -> str:
    """Why a row is dropped whose text takes `needed` tokens."""
    return f"the {what} takes {needed} tokens, more than {llm.config.model} supports"
