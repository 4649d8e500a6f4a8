"""Data for training and inference: examples, streams of frames, padded batches, the loader.

It takes utterances, and the feature stores with their frames. It returns batches, in an order that
depends only on lengths, seed and epoch.
"""
