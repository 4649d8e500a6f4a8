"""Corpora: readers, manifests, audio, emotion names, dimensions and splits.

Input: the folder of a corpus or a table of clips. Output: manifests of utterances, decoded clips.
"""
