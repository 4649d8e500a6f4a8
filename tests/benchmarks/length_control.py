"""Sentence limit of replies: its effect on empathy, length and questions, on EPITOME's posts.

    python tests/benchmarks/length_control.py EPITOME --scorer scorers/seed12 --recipe small

The recipe's LLM answers, as text, posts that the scorer's training held out. It answers once, at
full length. Generation is greedy, so a reply with a limit is the start of the full reply; `--check`
generates a batch with each limit to confirm this. Replies that people wrote to the same posts are
also shown. Levels with each limit are compared with those of the full replies in paired tests, with
Holm's correction over all tests.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.empathy.epitome import Exchange, read_epitome, split_by_post
from rellm_cache.empathy.scorer_folder import EmpathyModel, load_empathy
from rellm_cache.empathy.scoring import ReplyScore, score_exchanges
from rellm_cache.llm.decoding import continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit
from rellm_cache.metrics.intervals import summarize
from rellm_cache.metrics.replies import question_count, word_count
from rellm_cache.metrics.significance import holm, paired_test
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device

FULL, PEOPLE = "full length", "people"
LIMITS = {
    FULL: NO_LIMIT,
    "3 sentences": ReplyLimit(sentences=3),
    "2 sentences": ReplyLimit(sentences=2),
    "first question": ReplyLimit(after_question=True),
    "2 sentences or first question": ReplyLimit(sentences=2, after_question=True),
}
JUDGED = ("ER", "EX")


def answer(
    llm: FrozenLLM, recipe: Recipe, posts: Sequence[str], limit: ReplyLimit, together: int
) -> list[str]:
    """A reply of at most `prompts.answer_tokens` tokens to each post."""
    system = recipe.prompts.empathetic_system
    prompts = [llm.embed(llm.chat.text_prompt(system, post)) for post in posts]
    order = sorted(range(len(posts)), key=lambda i: len(prompts[i]))
    replies = [""] * len(posts)
    with progress("Answering", len(posts), "posts") as tick:
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            found = continue_prompts(
                llm, [prompts[i] for i in chosen], recipe.prompts.answer_tokens, limit=limit
            )
            for index, reply in zip(chosen, found, strict=True):
                replies[index] = reply.text
            tick(len(chosen))
    return replies


def held_out(data: Path, model: EmpathyModel, count: int) -> list[Exchange]:
    """The first exchange about each post that the scorer was not trained on."""
    exchanges = split_by_post(read_epitome(data), model.card.settings.fold).test
    return list({e.post: e for e in reversed(exchanges)}.values())[::-1][:count]


def levels(scores: Sequence[ReplyScore], name: str, longer: bool) -> list[float]:
    """Levels of one mechanism, cut as EPITOME cuts or at the scorer's longer limit."""
    return [(s.long_levels if longer else s.levels)[name] for s in scores]


def row_of(replies: Sequence[str], scores: Sequence[ReplyScore]) -> dict[str, Any]:
    """A line of the table."""
    row: dict[str, Any] = {"replies": len(replies)}
    for longer, suffix in ((False, ""), (True, " long")):
        for name in JUDGED:
            row[name + suffix] = str(summarize(levels(scores, name, longer)))
    row["words"] = round(summarize([word_count(r) for r in replies]).mean, 1)
    row["questions"] = round(summarize([question_count(r) for r in replies]).mean, 2)
    row["asks"] = round(sum(question_count(r) > 0 for r in replies) / len(replies), 2)
    row["cut"] = round(sum(s.reply_cut for s in scores) / len(scores), 2)
    return row


def compare(scores: Mapping[str, Sequence[ReplyScore]]) -> dict[str, dict[str, float]]:
    """Each limit against full length: difference, effect size, p, and p after Holm."""
    tests, found = {}, {}
    for name in LIMITS:
        for longer, suffix in ((False, ""), (True, " long")):
            for judged in JUDGED if name != FULL else ():
                limited, full = (levels(scores[n], judged, longer) for n in (name, FULL))
                test = paired_test(limited, full)
                difference = summarize(limited).mean - summarize(full).mean
                tests[f"{name}: {judged}{suffix}"] = test.p
                found[f"{name}: {judged}{suffix}"] = {
                    "difference": round(difference, 3), "effect": round(test.effect, 2),
                    "better": test.better, "worse": test.worse, "p": test.p,
                }  # fmt: skip
    for key, p in holm(tests).items():
        found[key]["holm"] = p
    return found


def main() -> None:
    """Answer, cut, score, print; write all with --json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of EPITOME's CSV files")
    parser.add_argument("--scorer", type=Path, required=True)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--posts", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--check", action="store_true", help="generate a batch under each limit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    device = default_device()
    model = load_empathy(options.scorer, device)
    exchanges = held_out(options.data, model, options.posts)
    posts = [e.seeker_post for e in exchanges]
    llm = load_llm(recipe.require_llm(), device)
    full = answer(llm, recipe, posts, NO_LIMIT, options.batch_size)
    replies = {name: [limit.cut(r) for r in full] for name, limit in LIMITS.items()}
    if options.check:
        batch = sorted(range(len(posts)), key=lambda i: len(posts[i]))[: options.batch_size]
        for name, limit in LIMITS.items():
            found = answer(llm, recipe, [posts[i] for i in batch], limit, options.batch_size)
            expected = [replies[name][i] for i in batch]
            equal = sum(a == b for a, b in zip(found, expected, strict=True))
            print(f"{name}: {equal} of {len(batch)} generated under the limit are the cut ones")
    replies[PEOPLE] = [e.response_post for e in exchanges]
    scores = {
        name: list(score_exchanges(model, [Exchange("", "", post, reply)
                                           for post, reply in zip(posts, texts, strict=True)]))
        for name, texts in replies.items()
    }  # fmt: skip
    table = {name: row_of(replies[name], scores[name]) for name in replies}
    for name, row in table.items():
        print(" ".join(f"{key}={value}" for key, value in row.items()), f"[{name}]")
    tests = compare(scores)
    for name, test in tests.items():
        print(f"{name}: {test['difference']:+.3f}, effect {test['effect']:+.2f}, "
              f"{test['better']} higher, {test['worse']} lower, p {test['p']:.2g}, "
              f"Holm {test['holm']:.2g}")  # fmt: skip
    if options.json:
        content = {"table": table, "tests": tests, "posts": posts, "replies": replies}
        options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
