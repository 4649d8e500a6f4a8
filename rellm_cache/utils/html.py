"""HTML pages from Jinja templates; all values are escaped."""

from functools import cache
from typing import Any

import jinja2


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader("rellm_cache", "."), autoescape=True)


def render_page(template: str, **values: Any) -> str:
    """Return a rendered template; `template` is its path in the package."""
    return _environment().get_template(template).render(**values)
