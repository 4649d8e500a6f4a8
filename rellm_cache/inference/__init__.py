"""Answers and emotion labels of trained runs.

Input: a run folder, and utterances with cached frames or audio. Output: answers, emotion labels
and fingerprints of everything that they depend on.
"""
