"""Trained model: adapter, heads and losses in front of the frozen LLM.

It takes batches of frames. It returns embeddings for the LLM, emotion logits, dimensions and loss
terms.
"""
