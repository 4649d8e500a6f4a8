"""Refusals: the paper's rules for dropping responses of an LLM by their wording."""

EMPTY = "empty"
STARTS = ("i'm sorry, but i cannot", "i'm sorry, but i'm not sure")
PHRASES = ("as an ai language model", "i'm sorry, but i", "i'm not sure what you")


def refusal_reason(response: str) -> str | None:
    """Why a response is dropped, `EMPTY` or "refusal"; None if it is kept."""
    text = response.lower().replace("\u2019", "'")
    if not text:
        return EMPTY
    if text.startswith(STARTS) or any(phrase in text for phrase in PHRASES):
        return "refusal"
    return None
