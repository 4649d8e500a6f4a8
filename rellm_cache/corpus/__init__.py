"""Corpora: readers, manifests, audio, emotion names, dimensions and splits.

A corpus's own folder or a table of clips enters. Manifests of utterances and decoded clips leave.
"""
