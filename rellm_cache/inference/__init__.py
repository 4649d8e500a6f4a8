"""Answers and emotion labels of trained runs.

It takes a run folder, and utterances with cached frames or audio. It returns answers, emotion
labels and fingerprints of everything that they depend on.
"""
