"""Annotations of manifests by models: expected responses, transcripts, dimensions and questions.

Input: manifests, recipes and a cache. Output: files next to the manifest and stores in the cache,
which `training` and `evaluation` read.
"""
