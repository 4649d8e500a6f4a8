"""Annotations of manifests by models: expected responses, transcripts, dimensions and questions.

It takes manifests, recipes and a cache. It writes files next to the manifest and stores in the
cache, which `training` and `evaluation` read.
"""
