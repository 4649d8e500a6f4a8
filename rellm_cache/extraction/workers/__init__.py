"""Workers of an extraction: processes of this machine or actors of a Ray cluster.

They take batches of clips that the cache lacks. They commit parts, and report each batch and each
worker that died.
"""
