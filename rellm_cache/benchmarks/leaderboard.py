"""Leaderboard of EmoBox: published scores of frozen encoders with a small head (Ma et al. 2024)."""

# Corpus → emotions of the task that the rows are of.
EMOBOX_EMOTIONS = {"ravdess": 8, "iemocap": 4, "esd": 5}

# Corpus → encoder → UA, the mean over folds.
EMOBOX_UA: dict[str, dict[str, float]] = {
    "ravdess": {
        "Whisper-large-v3": 0.753,
        "WavLM-large": 0.720,
        "HuBERT-base": 0.654,
        "WavLM-base": 0.616,
        "wav2vec2-base": 0.543,
    },
    "iemocap": {"Whisper-large-v3": 0.735, "WavLM-large": 0.695},
    "esd": {"Whisper-large-v3": 0.846, "WavLM-large": 0.791},
}
