"""Caches in object stores, served through a local mirror with the layout of a cache.

The mirror of a URL such as `s3://bucket/cache` is a local folder, which all other code reads and
writes like any cache. Frames are downloaded on demand and evicted over a size limit.
Functions raise `RemoteError` if the object store cannot be reached, read or written.
"""
