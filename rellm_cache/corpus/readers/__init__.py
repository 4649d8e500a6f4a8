"""Corpus readers: one module per corpus, and one for tables.

A corpus's own folder enters. A `Corpus` leaves: utterances in their splits, with totals to check.
"""

from importlib import import_module

_MODULES = (
    "iemocap", "esd", "msp_podcast", "ravdess", "crema_d", "emobox", "table", "datasets",
    "webdataset",
)  # fmt: skip
for _module in _MODULES:
    import_module(f"{__name__}.{_module}")  # registers its reader, in this order
