"""Losses over answer tokens and over clips, registered by name.

The outputs of the model for one batch, its labels and `[losses]` enter. Loss terms leave, each
a sum and a count.
"""

from importlib import import_module

for _module in ("token", "emotion", "dimensions"):
    import_module(f"{__name__}.{_module}")  # registers its losses
