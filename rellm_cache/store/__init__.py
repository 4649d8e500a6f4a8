"""The feature cache: frames of frozen encoders on disk, one Zarr v3 store for each encoder.

Frames, digests and dimensions of clips enter through `writer.StoreWriter`, in parts that never
change. They leave by utterance id through `reader.FeatureStore`, as views of memory-mapped files.
"""
