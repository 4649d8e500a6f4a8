"""Naive training step for comparison: padded rows, a prompt in each row, full logits.

It shares only the adapter, the heads and the LLM's weights with the real step: no packing, no loss
code, no loader. The real step is compared with it in value (tests/model) and in time and memory
(train.py, gpu.py).

Shapes: N rows (each answer of an example has its own), T tokens of the longest row, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.model.speech_llm import SpeechLLM

IGNORED = -100


def naive_batch(examples: Sequence[Example], streams: StreamSet) -> Batch:
    """Read examples one by one and pad them."""
    lengths = streams.lengths([e.id for e in examples]).tolist()
    padded = {}
    for name in streams.sources:
        read = [streams.pieces(name, e.id, n) for e, n in zip(examples, lengths, strict=True)]
        frames = [
            torch.from_numpy(np.concatenate([np.concatenate(p) for p in layers], 1))
            for layers in read
        ]
        padded[name] = pad_sequence(frames, batch_first=True)  # (B, T, D)
    nothing = (float("nan"),) * 3
    return Batch(
        ids=tuple(e.id for e in examples),
        streams=padded,
        frame_lengths=torch.tensor(lengths),
        emotions=torch.tensor([e.emotion for e in examples]),
        vad=torch.tensor([e.vad or nothing for e in examples]),
        targets=tuple(e.targets for e in examples),
    )


def naive_losses(
    model: SpeechLLM, llm: FrozenLLM, batch: Batch, sums: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Mean of each loss of one batch, by name; scalars.

    Args:
        sums: in which the softmax over the vocabulary is summed. Over SmolLM2's 49,152 tokens
            torch's float32 softmax on a CPU is off by 4e-4 in the gradient, so that values are
            compared with float64 sums of the same float32 logits.
    """
    speech = model.speech(batch)
    logits, dimensions = model.heads(model.pooled(speech))
    rows, labels, tasks = [], [], []
    for index, targets in enumerate(batch.targets):
        for target in targets:
            prompt = model.prompts[target.task]
            after = prompt.after if target.after is None else target.after
            known = torch.cat([llm.embed(prompt.before), speech.one(index), llm.embed(after)])
            answer = torch.tensor(target.ids, device=known.device)
            rows.append(torch.cat([known, llm.embed(target.ids).to(known.dtype)]))
            labels.append(torch.cat([torch.full((len(known),), IGNORED).to(answer), answer]))
            tasks.append(target.task)
    embeddings = pad_sequence(rows, batch_first=True)  # (N, T, H)
    label = pad_sequence(labels, batch_first=True, padding_value=IGNORED)  # (N, T)
    mask = pad_sequence([torch.ones_like(one) for one in labels], batch_first=True)
    outputs = llm.model(inputs_embeds=embeddings.to(llm.dtype), attention_mask=mask)
    predicted = outputs.logits[:, :-1].to(sums)  # (N, T - 1, V)
    each = F.cross_entropy(predicted.flatten(0, 1), label[:, 1:].flatten(), reduction="none")
    each = each.view(predicted.shape[:2])  # (N, T - 1)
    losses = {}
    for task in sorted(set(tasks)):
        own = torch.tensor([t == task for t in tasks], device=label.device)
        losses[task] = (each[own].sum() / (label[own, 1:] != IGNORED).sum()).float()
    smoothing = model.loss_config.label_smoothing
    losses["emotion_ce"] = F.cross_entropy(logits, batch.emotions, label_smoothing=smoothing)
    known_vad = ~batch.vad.isnan().any(1)
    if dimensions is not None and known_vad.any():
        losses["vad"] = F.mse_loss(dimensions[known_vad], batch.vad[known_vad])
    return losses


def naive_total(model: SpeechLLM, losses: dict[str, Tensor]) -> Tensor:
    """Eq. 10: the sum of the losses by the recipe's weights, scalar."""
    weights = model.loss_config
    return torch.stack([getattr(weights, name) * loss for name, loss in losses.items()]).sum()
