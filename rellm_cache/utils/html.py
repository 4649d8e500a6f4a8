"""HTML pages. In: a template, values. Out: text, everything from outside escaped."""

from functools import cache
from typing import Any

import jinja2


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader("rellm_cache", "."), autoescape=True)


def render_page(template: str, **values: Any) -> str:
    """Render a template, named by its path in the package: `evaluation/report.html.j2`."""
    return _environment().get_template(template).render(**values)
