"""Output matrix in 4 bits: what it changes in loss and gradient of real models.

    python tests/benchmarks/output_matrix.py MODEL … --json output.json

MODEL is a model folder. The LLM in NF4 reads a request and an answer; the answer's loss, and the
gradient at the input embeddings of the request, are computed with its output matrix as it is and in
NF4. SmolLM2 and Qwen 0.5B tie the matrix to their input embeddings, so that `llm.quantize_output`
refuses them; here only the matrix of the loss changes. Seconds are processor time of the loss and
of its gradient at the hidden states.
"""

import time
from pathlib import Path

import torch
from options import make_parser, rounded, write_figures
from torch.nn import functional as F

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.output_matrix import OutputMatrix, QuantizedOutput
from rellm_cache.llm.packed_rows import Segment, pack
from rellm_cache.model.losses.token import token_cross_entropy

SENTENCES = {  # a sentence in an emotion, and an answer to it
    "Kids are talking by the door, and I cannot stand it!": "That sounds really annoying. Maybe "
    "you could close the door, or ask them kindly to play somewhere else for a while?",
    "Dogs are sitting by the door.": "They are probably waiting for a walk. Do you want to take "
    "them out now, or is it still too early for them?",
    "I finally got the letter that I was waiting for.": "Congratulations! I am so happy for you. "
    "What does it say, and how will you celebrate tonight?",
    "My grandmother died last week.": "I am very sorry for your loss. Losing someone so close "
    "hurts, and it is all right to take your time.",
    "There is a strange noise in the cellar.": "That would scare me, too. Is somebody with you, "
    "and could you turn on all the lights before you look?",
    "We moved to another town.": "Moving is a big change. How do you like the new place so far, "
    "and have you met some of your neighbors already?",
}


def measured(
    llm: FrozenLLM, output: OutputMatrix, requests: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Losses of all answer tokens (N,), the gradients at the requests, and processor seconds."""
    losses, gradients, seconds = [], [], 0.0
    for request, answer in [*SENTENCES.items()][:requests]:
        ids = llm.chat.ids(f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n")
        leaf = llm.embed(ids).detach().requires_grad_()
        target = tuple(llm.chat.ids(f"{answer}<|im_end|>"))
        row = pack([Segment(leaf), llm.segment(answer=target, parent=0)])
        hidden = llm.hidden_states(row)
        start = time.process_time()
        found, _ = token_cross_entropy(row, hidden, output)
        found.mean().backward(inputs=[hidden], retain_graph=True)
        seconds += time.process_time() - start
        found.mean().backward(inputs=[leaf])
        losses.append(found.detach())
        gradients.append(leaf.grad.flatten())  # type: ignore[union-attr]
    return torch.cat(losses), torch.cat(gradients), seconds


def compare(folder: Path, requests: int) -> dict[str, float]:
    """Figures of one model."""
    llm = load_llm(LLMConfig(str(folder)), torch.device("cpu"))
    plain = llm.output_weight
    if not isinstance(plain, torch.Tensor):
        raise SystemExit("the model's matrix is quantized already")
    packed = QuantizedOutput(plain)
    error = (packed.dense() - plain).norm() / plain.norm()
    measured(llm, plain, 1)  # the first pass is slower
    (loss, gradient, seconds), (other, changed, blocked) = (
        measured(llm, output, requests) for output in (plain, packed)
    )
    return {
        "tokens": len(loss),
        "matrix_error": float(error),
        "loss": float(loss.mean()),
        "loss_4_bits": float(other.mean()),
        "largest_change_of_a_token": float((other - loss).abs().max()),
        "gradient_cosine": float(F.cosine_similarity(gradient, changed, 0)),
        "gradient_norm_ratio": float(changed.norm() / gradient.norm()),
        "loss_seconds": seconds,
        "loss_seconds_4_bits": blocked,
    }


def main() -> None:
    """Compare every model; print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=len(SENTENCES))
    options = parser.parse_args()
    figures = {}
    for folder in options.models:
        figures[folder.name] = rounded(compare(folder, options.requests), 4)
        print(f"{folder.name}: {figures[folder.name]}", flush=True)
    write_figures(options, figures)


if __name__ == "__main__":
    main()
