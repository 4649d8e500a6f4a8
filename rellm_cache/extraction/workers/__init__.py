"""Workers of an extraction: processes of this machine or actors of a Ray cluster.

Enters: batches of clips that the cache lacks. Leaves: committed parts, and events that report each
batch and each worker that died.
"""
