"""Data for training and inference: examples, streams of frames, padded batches, the loader.

Utterances and the stores that hold their frames enter. Batches leave, in an order that follows from
lengths, seed and epoch alone.
"""
