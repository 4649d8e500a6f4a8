"""Corpus readers: one module per corpus, and one for tables.

A corpus's own folder enters. A `Corpus` leaves: utterances in their splits, with totals to check.
"""
