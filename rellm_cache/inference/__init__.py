"""Answers and emotion labels of trained runs.

A run folder and utterances enter, with their frames from the cache or with their audio. Answers,
emotion labels and the fingerprints of all that they depend on leave.
"""
