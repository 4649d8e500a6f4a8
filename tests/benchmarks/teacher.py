"""Teacher top-K: how much KL divergence K tokens keep, with SmolLM2 on expected responses.

    python tests/benchmarks/teacher.py manifests/ravdess --recipe small

The teacher reads the request of step 1 and each response. Two students replace the speech model at
the start and at the end of training: the first gets no sentence, the second gets the transcript but
not the emotion.
"""

from pathlib import Path

import torch
from binning import truncation
from options import make_parser, write_figures
from torch import Tensor

from rellm_cache.annotation.teacher import (
    DistillationTarget,
    make_distillation_targets,
    teacher_spec,
)
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm

TOP_K = (8, 32, 128, 512)


def logits(llm: FrozenLLM, request: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """(L, V) that predict each token of a response."""
    output = llm.model(inputs_embeds=llm.embed((*request, *response))[None]).logits[0]
    return output[len(request) - 1 : -1].float()


def gradients(teacher: Tensor, student: Tensor, top_k: int, weight: Tensor) -> Tensor:
    """(2, L, H) of the full and of the binned divergence by the student's hidden states, but for
    a factor; `teacher` and `student` are (L, V) logits over the temperature."""
    p, q = teacher.softmax(1), student.softmax(1)
    full = q - p
    others = torch.ones_like(p).scatter(1, p.topk(top_k).indices, 0.0).bool()
    share = (q * others) / (q * others).sum(1, keepdim=True)
    binned = torch.where(others, share * (full * others).sum(1, keepdim=True), full)
    return torch.stack([full, binned]) @ weight


def students(llm: FrozenLLM, recipe: Recipe, utterance: Utterance) -> dict[str, tuple[int, ...]]:
    """The requests of step 2 with nothing, and with the transcript, in place of the speech."""
    prompts = recipe.prompts
    return {
        name: llm.chat.text_prompt(
            prompts.empathetic_system, prompts.alignment.replace("{speech}", text)
        )
        for name, text in (("hears nothing", ""), ("reads the words", utterance.text))
    }


@torch.inference_mode()
def measure(
    llm: FrozenLLM, recipe: Recipe, pairs: list[tuple[Utterance, DistillationTarget]]
) -> list[dict[str, object]]:
    """A row for each student and K: means over all tokens, in nats."""
    temperature = recipe.losses.kl_temperature
    weight = llm.output_weight.float()
    sums: dict[tuple[str, int], Tensor] = {}
    tokens = 0
    for utterance, target in pairs:
        theirs = logits(llm, target.request, target.response)
        tokens += len(theirs)
        for name, request in students(llm, recipe, utterance).items():
            ours = logits(llm, request, target.response)
            for top_k in TOP_K:
                found = truncation(theirs, ours, top_k, temperature)
                pair = gradients(theirs / temperature, ours / temperature, top_k, weight)
                cosine = torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=1)
                row = torch.stack([found.full, found.binned, found.rest, cosine]).sum(1)
                sums[name, top_k] = sums.get((name, top_k), torch.zeros(4)) + row
    return [
        {
            "student": name,
            "top_k": top_k,
            "responses": len(pairs),
            "tokens": tokens,
            "temperature": temperature,
            "full": full,
            "binned": binned,
            "rest": rest,
            "gradient_cosine": cosine,
            "bytes_a_token": 4 * (2 * top_k + 1),
        }
        for (name, top_k), sum_ in sums.items()
        for full, binned, rest, cosine in [(sum_ / tokens).tolist()]
    ]


def main() -> None:
    """Print the table, and write it with --json."""
    parser = make_parser(__doc__, "small")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--responses", type=int, default=60, help="different ones, at most")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    llm = load_llm(recipe.require_llm(), torch.device("cpu"))
    utterances = read_manifests(options.manifest)
    spec = teacher_spec(recipe.require_llm(), recipe.prompts, recipe.losses)
    targets, _ = make_distillation_targets(utterances, spec, llm.chat)
    by_id = {utterance.id: utterance for utterance in utterances}
    different = {(x.request, x.response): x for x in targets}  # equal ones once
    pairs = [(by_id[x.id], x) for x in different.values()][: options.responses]
    rows = measure(llm, recipe, pairs)
    write_figures(options, rows)


if __name__ == "__main__":
    main()
