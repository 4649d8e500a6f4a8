"""Scores: plain functions of numpy arrays."""
