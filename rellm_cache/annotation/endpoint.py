"""Endpoint: a server in OpenAI's form (vLLM, llama.cpp, Ollama, …) that writes replies or judges.

Requests are sent side by side and repeated when the server fails for a moment. An answer that is
not complete counts as a failure of the server, never as a reply.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from rellm_cache.annotation.text_replies import Reply, Writing
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.llm.decoding import Continuation
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.utils.console import say

RETRIES = 5  # of a request; the pauses grow from half a second to eight
SECONDS = 600.0  # that a request may take
KEY = "OPENAI_API_KEY"  # environment variable with the key, for servers that want one
LIKELIEST = 20  # first tokens whose likelihoods are asked for: the most that servers give
HIGHEST = 1e-3  # log-likelihood of a token that is certain, with rounding
TRIAL = "Hello"  # request to learn whether a server answers
START_TOKENS = 3  # tokens asked for with them, since the first ones may be white space

Read = TypeVar("Read")  # what is read from an answer
FirstTokens = list[tuple[str, float]]  # texts of tokens, and their log-likelihoods


@dataclass(frozen=True)
class Endpoint:
    """A server and its model.

    Attributes:
        url: base URL, as `http://127.0.0.1:8000/v1`.
        model: the model's name on the server.
        root: where the server says that it has the model from; "" if it does not say.
    """

    url: str
    model: str
    root: str = ""
    retries: int = field(default=RETRIES, compare=False)
    seconds: float = field(default=SECONDS, compare=False)

    @property
    def shown(self) -> str:
        """The URL for messages, without a user's name and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def identity(self) -> dict[str, str]:
        """What decides a reply besides request and settings; another server may have the model."""
        return {"model": self.model} | ({"root": self.root} if self.root else {})


def connect(
    url: str, model: str | None = None, retries: int = RETRIES, seconds: float = SECONDS
) -> Endpoint:
    """Ask a server for its models and choose one.

    Args:
        model: name of a model on the server; None for the only one that it has.

    Raises:
        ConfigError: the package `openai` is missing, the URL is none, the server does not answer
            in OpenAI's form, or it has no such model.
    """
    if not _is_url(url):
        raise ConfigError(
            f"--endpoint {url!a}: expected a URL, as http://127.0.0.1:8000/v1 (vLLM) or "
            "http://127.0.0.1:11434/v1 (Ollama)"
        )
    openai = _library()
    asked = Endpoint(url, model or "", "", retries, seconds)
    shown = asked.shown
    try:
        with _client(asked) as client:
            listed = {str(m.id): m for m in client.models.list()}
    except Exception as error:  # of the library, which does not check what a server answers
        if model is not None and not isinstance(error, openai.APIConnectionError):
            why = _reason(error)
            say(f"{shown}: the server does not list its models ({why}); asking {model!r}")
            return asked
        raise ConfigError(
            f"--endpoint {shown}: no list of models at {shown.rstrip('/')}/models "
            f"({_reason(error)}); start the server, correct the URL, which ends in /v1 for most "
            "servers, or name the model with --endpoint-model if the server has no list"
        ) from error
    if model is None and len(listed) == 1:
        (model,) = listed
    if not listed and model is None:
        raise ConfigError(
            f"--endpoint {shown}: the server lists no model; name one with --endpoint-model"
        )
    if model is None or model not in listed:
        found = ", ".join(sorted(listed)[:20]) or "none"
        wanted = "which one to use" if model is None else f"{model!r}"
        raise ConfigError(
            f"--endpoint {shown}: the server has the models {found}; expected {wanted}; name one "
            "with --endpoint-model"
        )
    root = getattr(listed[model], "root", None)
    return Endpoint(url, model, root if isinstance(root, str) else "", retries, seconds)


def connect_if(url: str | None, model: str | None, likelihoods: bool = False) -> Endpoint | None:
    """The endpoint of a command's options, which has answered a request; None without a URL.

    Errors are those of `connect` and `require_answer`.
    """
    if url is not None:
        endpoint = connect(url, model)
        require_answer(endpoint, likelihoods)
        return endpoint
    if model is not None:
        raise ConfigError("--endpoint-model names a model of a server; give its --endpoint URL too")
    return None


def require_answer(endpoint: Endpoint, likelihoods: bool = False) -> None:
    """Send a short request, so that a server that cannot answer is an error before work begins.

    Args:
        likelihoods: whether its answers must have the likelihoods of their first tokens.

    Raises:
        ConfigError: the server does not answer in OpenAI's form, or has no likelihoods.
    """
    if likelihoods:
        asked: _Asked[Any] = _likelihoods(endpoint, "")
    else:
        asked = _Asked(endpoint, "", {"max_tokens": 1}, _first_choice)
    try:
        with _client(endpoint) as client:
            asked.answer(client, TRIAL)
    except ConfigError:
        raise
    except RellmError as error:
        raise ConfigError(
            f"--endpoint {endpoint.shown}: a trial request failed; correct the URL, which ends in "
            f"/v1 for most servers, or the name of the model, {endpoint.model!r}: {error}"
        ) from error


def ask_endpoint(
    endpoint: Endpoint, chat: ChatFormat, prompts: Iterable[str], writing: Writing, at_once: int
) -> Iterator[Reply]:
    """Answer each distinct prompt, in the order in which the server answers.

    Args:
        chat: the chat format of the recipe's own LLM, by whose tokens a reply's length is counted.
        at_once: requests that are sent side by side.

    Raises:
        RellmError: the server refuses a request, or fails again and again. Replies that came
            before are given first.
    """
    settings = {
        "max_tokens": writing.tokens,
        "temperature": writing.temperature,
        "seed": writing.seed,
    }
    asked = _Asked(endpoint, writing.system, settings, _continuation)
    for prompt, reply in asked.answers(prompts, at_once):
        length = len(chat.text_prompt(writing.system, prompt))
        yield Reply(prompt, reply, length + len(chat.ids(reply.text)))


def first_tokens(
    endpoint: Endpoint, prompts: Iterable[str], system: str, at_once: int
) -> Iterator[tuple[str, FirstTokens]]:
    """Yield each distinct prompt and the `LIKELIEST` first tokens of its answer.

    White space before the answer is skipped. Order and errors are those of `ask_endpoint`.

    Raises:
        ConfigError: the server gives no likelihoods.
    """
    return _likelihoods(endpoint, system).answers(prompts, at_once)


class _IncompleteError(Exception):
    """What a server's answer lacks."""


@dataclass(frozen=True)
class _Asked(Generic[Read]):
    """What is asked with each prompt, and how an answer is read."""

    endpoint: Endpoint
    system: str
    settings: Mapping[str, Any]  # of the request
    read: Callable[[Any], Read]  # from an answer; `_IncompleteError` if it lacks something

    def answers(self, prompts: Iterable[str], at_once: int) -> Iterator[tuple[str, Read]]:
        """Yield distinct prompts with what is read from their answers; see `ask_endpoint`."""
        waiting = iter(sorted(set(prompts)))
        failure: Exception | None = None
        with _client(self.endpoint) as client, ThreadPoolExecutor(at_once) as pool:
            running: dict[Future[Read], str] = {}
            try:
                while True:
                    if failure is None:
                        for prompt in islice(waiting, at_once - len(running)):
                            running[pool.submit(self.answer, client, prompt)] = prompt
                    if not running:
                        break
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        prompt = running.pop(done)
                        if (error := done.exception()) is None:
                            yield prompt, done.result()
                        elif not isinstance(error, Exception):
                            raise error  # an interrupt
                        else:
                            failure = failure or error
            finally:
                for future in running:
                    future.cancel()
        if type(failure) is RellmError:  # not its kinds, which a second call would meet again
            raise RellmError(
                f"{failure}; replies so far are kept, run the command again to continue"
            ) from failure
        if failure is not None:
            raise failure

    def answer(self, client: Any, prompt: str) -> Read:
        """What is read from the server's answer to one prompt; raises `RellmError`."""
        openai, endpoint = _library(), self.endpoint
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": prompt})
        for left in reversed(range(endpoint.retries + 1)):
            try:
                answer = client.chat.completions.create(
                    model=endpoint.model, messages=messages, **self.settings
                )
                return self.read(answer)
            except openai.APIStatusError as error:
                raise RellmError(
                    f"{endpoint.shown}: the server refused the request that begins {prompt[:60]!r} "
                    f"({_reason(error)})"
                ) from error
            except _IncompleteError as error:
                found = str(error)
            except (openai.OpenAIError, ValueError, RecursionError) as error:
                found = _reason(error)
            if not left:
                break
        raise RellmError(
            f"{endpoint.shown}: no complete answer after {endpoint.retries + 1} requests ({found})"
        )


def _likelihoods(endpoint: Endpoint, system: str) -> _Asked[FirstTokens]:
    """Requests for the first tokens of answers, with their likelihoods."""
    settings = {
        "max_tokens": START_TOKENS,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": LIKELIEST,
    }
    return _Asked(endpoint, system, settings, partial(_likeliest, endpoint.shown))


def _first_choice(answer: Any) -> Any:
    """The first choice of a server's answer; raises `_IncompleteError`."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise _IncompleteError("the answer has no choices")
    return choices[0]


def _complete(answer: Any) -> Any:
    """The first choice, which has a text and its end; raises `_IncompleteError`."""
    choice = _first_choice(answer)
    reason = getattr(choice, "finish_reason", None)
    if not isinstance(getattr(getattr(choice, "message", None), "content", None), str):
        raise _IncompleteError("the answer has no text")
    if reason not in ("stop", "length"):
        raise _IncompleteError(f"the answer ended by {reason!r}, expected 'stop' or 'length'")
    return choice


def _continuation(answer: Any) -> Continuation:
    """The reply of a complete answer."""
    choice = _complete(answer)
    early_stop = choice.finish_reason == "length"
    return Continuation(choice.message.content.strip(), early_stop=early_stop)


def _likeliest(url: str, answer: Any) -> FirstTokens:
    """The likeliest tokens at the place of the first one that is not white space, if there is one.

    Raises `ConfigError` if the server at `url` gives no likelihoods.
    """
    choice = _complete(answer)
    tokens = getattr(getattr(choice, "logprobs", None), "content", None)
    if tokens == [] and not choice.message.content:  # the answer ends at once
        return []
    if not isinstance(tokens, list) or not getattr(next(iter(tokens), None), "top_logprobs", None):
        raise ConfigError(
            f"--endpoint {url}: the answers have no likelihoods of tokens (`logprobs` with "
            "`top_logprobs`), and a score is weighted by them; use a server that gives them, as "
            "vLLM, llama.cpp or a recent Ollama, or an LLM that runs here"
        )
    try:
        place = next((token for token in tokens if token.token.strip()), tokens[0])
        found = [(one.token, float(one.logprob)) for one in place.top_logprobs]
    except (AttributeError, TypeError, ValueError) as error:
        raise _IncompleteError(
            f"the likelihoods of tokens are not in OpenAI's form ({_reason(error)})"
        ) from error
    for text, likely in found:
        if not isinstance(text, str) or not likely <= HIGHEST:
            raise _IncompleteError(
                f"found the token {text!a:.40} with log-likelihood {likely}, expected 0 at most"
            )
    return found


def _client(endpoint: Endpoint) -> Any:
    """Client of a server, for use in a `with` statement."""
    return _library().OpenAI(
        base_url=endpoint.url,
        api_key=os.environ.get(KEY) or "none",
        max_retries=endpoint.retries,
        timeout=endpoint.seconds,
    )


def _library() -> Any:
    """The package `openai`, which knows how and when to repeat a request."""
    try:
        import openai
    except ImportError as error:
        raise ConfigError(
            '--endpoint needs the package openai: pip install "rellm[endpoint]"'
        ) from error
    return openai


def _is_url(url: str) -> bool:
    """Whether a text is the URL of a server."""
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and has_place and url.isascii() and url.isprintable()


def _reason(error: Exception) -> str:
    """First part of an error's text, without characters that steer a terminal."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    return f"{type(error).__name__}: {' '.join(text.split())[:200]}"
