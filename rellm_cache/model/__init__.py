"""Trained model: adapter, heads and losses in front of the frozen LLM.

Batches of frames enter. Embeddings for the LLM, emotion logits, dimensions and loss terms leave.
"""
