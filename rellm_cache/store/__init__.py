"""Feature cache: frames of frozen encoders on disk, one Zarr v3 store for each encoder.

`writer.StoreWriter` writes frames, digests and dimensions of clips, in parts that never change.
`reader.FeatureStore` reads them by utterance id, as views of memory-mapped files.
"""
