"""Sizes of IEMOCAP's clips, responses and train split: those of the made data."""

from typing import Final

CLIP_SECONDS: Final = 4.5  # mean length of a clip
RESPONSE_TOKENS: Final = 48  # with the end tokens
IEMOCAP_CLIPS: Final = 3_861  # of the train split: sessions 1 to 4 without a tenth for validation
