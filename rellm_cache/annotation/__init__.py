"""Annotations of manifests by models: expected responses, transcripts, dimensions and questions.

Manifests, recipes and a cache enter. Files beside the manifest and stores in the cache leave, and
`training` and `evaluation` read them.
"""
