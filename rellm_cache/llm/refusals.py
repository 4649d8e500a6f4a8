"""Refusals. In: what an LLM wrote. Out: why it answers nothing, by the paper's rules, or None."""

REFUSAL_STARTS = ("i'm sorry, but i cannot", "i'm sorry, but i'm not sure")
REFUSALS = ("as an ai language model", "i'm sorry, but i", "i'm not sure what you")


def refusal(response: str) -> str | None:
    """Why a response is dropped by its wording, or None (the paper's rules)."""
    text = response.lower().replace("\u2019", "'")
    if not text:
        return "empty"
    if text.startswith(REFUSAL_STARTS) or any(phrase in text for phrase in REFUSALS):
        return "refusal"
    return None
