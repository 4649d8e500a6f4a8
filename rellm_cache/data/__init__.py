"""Data for training and inference: examples, streams of frames, padded batches, the loader.

Input: utterances, and the feature stores with their frames. Output: batches, in an order that
depends only on lengths, seed and epoch.
"""
