"""Caches in object stores, served through a local mirror with the layout of a cache.

A URL such as `s3://bucket/cache` enters. A local folder leaves, which all other code reads and
writes as any cache; frames are downloaded on demand and evicted over a size limit.
Where the object store cannot be reached, read or written, functions raise `RemoteError`.
"""
