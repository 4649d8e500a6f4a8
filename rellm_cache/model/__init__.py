"""Trained model: adapter, heads and losses in front of the frozen LLM.

Input: batches of frames. Output: embeddings for the LLM, emotion logits, dimensions, loss terms.
"""
