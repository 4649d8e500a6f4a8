"""Recognition requests in several wordings and orders of the options, and their average.

The label that an LLM finds likeliest can depend on the wording of the request, and on the order of
its options. So the probabilities of the labels are averaged over wordings and orders, and may be
calibrated by those after an empty speech. The UA of each wording and order alone is reported.

Letters: N utterances, B those of a batch, W wordings, O orders of the options, C emotions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.config.schema import PromptsConfig
from rellm_cache.data.batch import IGNORED, Batch
from rellm_cache.data.examples import label_ids
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import require_llm
from rellm_cache.metrics.classification import score_recognition
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.model.text_llm import Reading, TextLLM


@dataclass(frozen=True)
class Requests:
    """Recognition requests whose label probabilities are averaged.

    Attributes:
        texts: user's turn by wording and order of the options, (W, O).
        calibrate: whether probabilities are divided by those after an empty speech.
    """

    texts: list[list[str]]
    calibrate: bool

    @classmethod
    def of(
        cls, prompts: PromptsConfig, emotions: Sequence[str], orders: int, calibrate: bool
    ) -> "Requests":
        """The requests of a recipe's prompts with this number of orders of the options.

        Raises `ConfigError` if no wording lists the options, so that they have no order.
        """
        if orders > 1 and not any("{options}" in one for one in prompts.recognition_wordings):
            raise ConfigError(
                f"{orders} orders of the options: expected {{options}} in prompts.recognition, "
                f"found {list(prompts.recognition_wordings)}; leave the number of orders out"
            )
        return cls(prompts.recognition_requests(emotions, orders), calibrate)

    @property
    def is_plain(self) -> bool:
        """Whether there is one request, and nothing to average or calibrate."""
        return len(self.texts) == len(self.texts[0]) == 1 and not self.calibrate


@dataclass(frozen=True)
class Likelihoods:
    """Log-likelihoods of the labels under each request.

    Attributes:
        speech: (N, W, O, C) float64.
        empty: (W, O, C) float64 after an empty speech, to calibrate by; or None.
    """

    speech: NDArray[np.float64]
    empty: NDArray[np.float64] | None

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(N, W, O, C) label probabilities; those of a request sum to 1.

        Calibration divides them by the probabilities after an empty speech and normalizes them
        again (Zhao et al. 2021, "Calibrate Before Use").
        """
        logits = self.speech if self.empty is None else self.speech - self.empty
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        normalized: NDArray[np.float64] = shares / shares.sum(-1, keepdims=True)
        return normalized

    @property
    def likeliest(self) -> NDArray[np.int64]:
        """(N,) index of the label with the highest probability, averaged over all requests."""
        found: NDArray[np.int64] = self.probabilities.mean((1, 2)).argmax(-1)
        return found


@dataclass(frozen=True)
class RequestScores:
    """UA by the wording of the request, the order of its options, and the calibration.

    Attributes:
        plain: UA of the first wording in the paper's order, not calibrated.
        wordings: UA of each wording alone, averaged over orders, calibrated if the scores are.
        orders: UA of each order alone, averaged over wordings, calibrated if the scores are.
        uncalibrated: UA over all requests without calibration; None if there is none.
        spread: highest minus lowest UA of a wording.
    """

    plain: float
    wordings: tuple[float, ...]
    orders: tuple[float, ...]
    uncalibrated: float | None
    spread: float


@torch.inference_mode()
def speech_likelihoods(
    model: SpeechLLM, batch: Batch, prompts: PromptsConfig, requests: Requests
) -> Tensor:
    """(B, W, O, C) log-likelihoods of the labels of utterances under each request."""
    llm = require_llm(model.llm)
    speech, labels = model.speech(batch), label_ids(model.emotions, llm)
    by_wording = [
        torch.stack(
            [
                model.label_log_likelihoods(
                    speech, labels, llm.chat.speech_prompt(prompts.plain_system, text)
                )
                for text in texts
            ],
            dim=1,
        )  # (B, O, C)
        for texts in requests.texts
    ]
    return torch.stack(by_wording, dim=1)


def empty_likelihoods(
    model: SpeechLLM | TextLLM, prompts: PromptsConfig, requests: Requests
) -> Tensor:
    """(W, O, C) log-likelihoods of the labels after a request without speech, or without text."""
    llm = require_llm(model.llm)
    labels = label_ids(model.emotions, llm)

    def of(text: str) -> Tensor:
        if isinstance(model, TextLLM):
            return model.label_log_likelihoods([Reading("")], labels, text)[0]
        prompt = llm.chat.speech_prompt(prompts.plain_system, text)
        return model.empty_log_likelihoods(labels, prompt)

    return torch.stack([torch.stack([of(text) for text in texts]) for texts in requests.texts])


@torch.inference_mode()
def text_likelihoods(model: TextLLM, readings: Sequence[Reading], requests: Requests) -> Tensor:
    """(B, W, O, C) log-likelihoods of the labels of transcripts under each request."""
    labels = label_ids(model.emotions, model.llm)
    by_wording = [
        torch.stack(
            [model.label_log_likelihoods(readings, labels, text) for text in texts], dim=1
        )  # (B, O, C)
        for texts in requests.texts
    ]
    return torch.stack(by_wording, dim=1)


def score_requests(
    likelihoods: Likelihoods, true: NDArray[np.int64], names: tuple[str, ...]
) -> RequestScores | None:
    """UA by request; None if no utterance has a true emotion.

    Args:
        true: (N,) indices into `names`, `IGNORED` where there is no true emotion.
    """

    labelled = true != IGNORED
    if not labelled.any():
        return None

    def ua(shares: NDArray[np.float64]) -> float:
        """UA of label probabilities (N, C)."""
        return score_recognition(true[labelled], shares.argmax(-1)[labelled], names).ua

    shares = likelihoods.probabilities  # (N, W, O, C)
    plain = replace(likelihoods, empty=None).probabilities  # (N, W, O, C)
    wordings = tuple(ua(shares[:, w].mean(1)) for w in range(shares.shape[1]))
    return RequestScores(
        plain=ua(plain[:, 0, 0]),
        wordings=wordings,
        orders=tuple(ua(shares[:, :, o].mean(1)) for o in range(shares.shape[2])),
        uncalibrated=None if likelihoods.empty is None else ua(plain.mean((1, 2))),
        spread=max(wordings) - min(wordings),
    )
