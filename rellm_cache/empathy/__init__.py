"""Empathy scorers: EPITOME's bi-encoder on any text encoder."""
