"""Lists of whole numbers, as people write them. In: `1-3,7`. Out: 1, 2, 3, 7."""

import re

from rellm_cache.errors import ConfigError


def parse_ranges(text: str, what: str) -> tuple[int, ...]:
    """The numbers of a list like `1-16` or `17,18,20-22`, each once; an empty text has none.

    Raises:
        ConfigError: the text is no such list; the message starts with `what` they are.
    """
    numbers: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(f"{what} {text!r}: expected numbers and ranges like 1-16,18")
        numbers.extend(range(first, last + 1))
    return tuple(dict.fromkeys(numbers))
