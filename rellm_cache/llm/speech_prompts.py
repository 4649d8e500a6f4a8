"""Speech prompts: the token ids around speech for each task of a recipe."""

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prompts import SpeechPrompt


def require_llm(llm: FrozenLLM | None) -> FrozenLLM:
    """The LLM of a model; `ConfigError` if its recipe has none."""
    if llm is None:
        raise ConfigError(
            "this run has no LLM, so it cannot answer; train with a recipe whose "
            "losses.response_lm or losses.emotion_lm is above 0, as `small`"
        )
    return llm


def question_prompt(recipe: Recipe, llm: FrozenLLM, question: str) -> SpeechPrompt:
    """The token ids around speech for one question about it."""
    user = recipe.qa.prompt.replace("{question}", question)
    return llm.chat.speech_prompt(recipe.prompts.empathetic_system, user)


def speech_prompts(recipe: Recipe, llm: FrozenLLM) -> dict[str, SpeechPrompt]:
    """The token ids around speech for each kind of request, made once."""
    prompts = recipe.prompts
    asked = prompts.recognition_of(recipe.heads.emotions)
    return {
        "response_lm": llm.chat.speech_prompt(prompts.empathetic_system, prompts.alignment),
        "emotion_lm": llm.chat.speech_prompt(prompts.plain_system, asked),
        "answer": llm.chat.speech_prompt(prompts.empathetic_system, prompts.answer),
        # What comes before speech is the same for every question; each has its own tokens after it.
        "qa_lm": question_prompt(recipe, llm, ""),
    }
