"""Scores of predictions, transcripts and replies, their intervals and tests.

Plain functions take NumPy arrays, numbers or texts. They return numbers or small dataclasses, and
read no files.
"""
