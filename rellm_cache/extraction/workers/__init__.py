"""Workers of an extraction: processes of this machine or actors of a Ray cluster.

Input: batches of clips that the cache lacks. Output: committed parts, and events that report each
batch and each worker that died.
"""
