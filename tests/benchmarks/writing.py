"""Writing speed of the LLM: `rellm respond`'s decoding beside `generate` of transformers.

Both answer the same prompts greedily with the same 4-bit model, in one process and in turns.
transformers gets its best form: prompts sorted by length, padded on the left, in batches. With
gpt4all installed and a GGUF file of the same model, llama.cpp answers them too, one at a time.

    python tests/benchmarks/writing.py --model cache/models/HuggingFaceTB/SmolLM2-135M-Instruct
"""

import argparse
import json
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rellm_cache.annotation.text_replies import Writing, ask
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.prompts import fill_placeholders

SUBJECTS = ("My sister", "The man next door", "Our teacher", "The old dog", "Nobody", "A friend")
EVENTS = (
    "came home late last night", "lost the keys again", "is leaving for good",
    "said nothing about the letter", "won the first prize", "broke the window",
    "will not be there when we need help with the house", "forgot my birthday",
    "waited in the rain for two hours because the last train was cancelled", "called me",
    "found a new job in another city",
)  # fmt: skip
EMOTIONS = ("happy", "sad", "angry", "neutral", "surprised")


def prompts_of(count: int) -> list[str]:
    """Requests of `rellm respond` for `count` different sentences."""
    template = load_recipe("small").prompts.expected_response
    sentences = [f"{s} {e}." for e in EVENTS for s in SUBJECTS]
    return [
        fill_placeholders(template, {"emotion": EMOTIONS[i % 5], "transcript": sentence})
        for i, sentence in enumerate(sentences[:count])
    ]


def with_rellm(llm: FrozenLLM, prompts: Sequence[str], writing: Writing, batch: int) -> int:
    """Answer with `rellm respond`'s decoding; the number of new tokens, end tokens included."""
    replies = list(ask(llm, prompts, writing, batch))
    assert len(replies) == len(prompts)
    return sum(len(r.reply.ids) + (not r.reply.early_stop) for r in replies)


@torch.inference_mode()
def with_transformers(llm: FrozenLLM, prompts: Sequence[str], writing: Writing, batch: int) -> int:
    """Answer with `generate`; the number of new tokens, end tokens included."""
    llm.set_attention("sdpa", checkpointing=False)
    ids = sorted((llm.chat.text_prompt(writing.system, p) for p in prompts), key=len)
    stops, count = list(llm.chat.stop_ids), 0
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        longest = max(map(len, part))
        tokens = torch.full((len(part), longest), stops[0])
        mask = torch.zeros_like(tokens)
        for row, own in enumerate(part):
            tokens[row, longest - len(own) :] = torch.tensor(own)
            mask[row, longest - len(own) :] = 1
        found = llm.model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=writing.tokens, do_sample=False,
            eos_token_id=stops, pad_token_id=stops[0],
        )[:, longest:]  # fmt: skip
        for row in found.tolist():
            ended = [i for i, token in enumerate(row) if token in stops]
            count += ended[0] + 1 if ended else len(row)
    return count


class LlamaCpp:
    """llama.cpp as gpt4all brings it, which answers one prompt at a time."""

    def __init__(self, gguf: Path, threads: int) -> None:
        from gpt4all import GPT4All

        # Its llama.cpp is older than SmolLM2's name of the pre-tokenizer. `refact` splits alike.
        with tempfile.TemporaryDirectory() as folder:
            known = Path(folder) / gguf.name
            key = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 6)  # a text of six letters
            known.write_bytes(gguf.read_bytes().replace(key + b"smollm", key + b"refact"))
            self._model = GPT4All(
                known.name, model_path=folder, allow_download=False, n_threads=threads, device="cpu"
            )

    def __call__(self, llm: FrozenLLM, prompts: Sequence[str], writing: Writing, _: int) -> int:
        """Answer; the number of new tokens."""
        count = 0
        for prompt in prompts:
            text = llm.chat.tokenizer.decode(llm.chat.text_prompt(writing.system, prompt))
            count += sum(
                1
                for _ in self._model.generate(
                    text, max_tokens=writing.tokens, temp=0, streaming=True
                )
            )
        return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rellm", type=int, nargs="*", default=[16, 32, 64], help="batch sizes")
    parser.add_argument("--transformers", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--precision", nargs="*", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--gguf", type=Path, help="GGUF file for llama.cpp")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    llms = {
        precision: load_llm(LLMConfig(options.model, cpu_precision=precision), torch.device("cpu"))
        for precision in options.precision
    }
    system = load_recipe("small").prompts.empathetic_system
    writing, prompts = Writing(system, options.tokens), prompts_of(options.prompts)
    sides: dict[str, tuple[Callable[..., int], int]] = {
        f"rellm, batch {n}": (with_rellm, n) for n in options.rellm
    } | {f"transformers, batch {n}": (with_transformers, n) for n in options.transformers}
    if options.gguf:
        sides["llama.cpp"] = (LlamaCpp(options.gguf, options.threads), 1)
    for llm in llms.values():
        with_rellm(llm, prompts[:2], Writing(system, 2), 2)  # warms up
    for _ in range(options.rounds):
        for name, (answer, batch) in sides.items():
            for precision in ("Q4",) if name == "llama.cpp" else options.precision:
                llm = llms.get(precision) or llms[options.precision[0]]
                wall, processor = time.perf_counter(), time.process_time()
                tokens = answer(llm, prompts, writing, batch)
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
                row = {
                    "side": name,
                    "precision": precision,
                    "tokens": tokens,
                    "tokens_per_second": round(tokens / wall, 1),
                    "tokens_per_processor_second": round(tokens / processor, 1),
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
