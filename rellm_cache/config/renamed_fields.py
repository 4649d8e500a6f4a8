"""Renamed recipe fields: the names in rellm 0.1 and the names that replace them."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

# Table of a recipe -> old field -> new field; a new name with a dot is in another table. Add
# every rename here.
RENAMED: dict[str, dict[str, str]] = {
    "encoders.*": {"weights": "weights_sha256"},
    "emotion": {"pooling": "encoders.emotion.pooling (leave it out without that encoder)"},
    "transcriber": {"weights": "weights_sha256"},
    "losses": {
        "response": "response_lm",
        "category": "emotion_ce",
        "dimension": "vad",
        "recognition": "emotion_lm",
        "question": "qa_lm",
        "dimension_kind": "vad_kind",
    },
    "llm": {
        "row_tokens": "pack_length",
        "checkpoint_activations": "activation_checkpointing",
        "embeddings": 'offload_embeddings (true for "host", false for "device")',
    },
    "text": {"label": "gold_emotion"},
    "training": {
        "accumulation": "gradient_accumulation",
        "tokens_per_step": "micro_batch_tokens",
        "bucket_batches": "bucket_window",
        "clip": "max_grad_norm",
        "average": "weight_averaging",
        "optimiser": "optimizer",
        "weights": "param_dtype",
        "select": "best_metric",
        "start_from": "init_from",
    },
}


def renamed_fields(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield old and new name of each renamed field in a recipe's TOML table, named `path`."""
    known = [names for pattern, names in RENAMED.items() if fnmatchcase(path, pattern)]
    for key, value in table.items():
        field = f"{path}.{key}" if path else key
        for names in known:
            if key in names:
                yield field, names[key] if "." in names[key] else f"{path}.{names[key]}"
        if isinstance(value, Mapping):
            yield from renamed_fields(value, field)
