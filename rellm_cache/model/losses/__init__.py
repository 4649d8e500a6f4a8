"""Losses over answer tokens and over clips, registered by name.

In: the model's outputs for one batch, its labels, the recipe's `[losses]`. Out: loss terms, each a
sum and a count.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in ("token", "emotion", "vad", *sorted(m.name for m in iter_modules(__path__))):
    import_module(f"{__name__}.{_module}")  # registers its losses, in this order
