"""Corpora: readers, manifests, audio, emotion names, dimensions and splits.

It takes the folder of a corpus or a table of clips. It returns manifests and decoded clips.
"""
