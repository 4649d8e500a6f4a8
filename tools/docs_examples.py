"""Extension of griffe: the section "Example:" of a docstring is code, as "Examples:" is."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Read "Example:" as the section that griffe knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M
            )
