"""Run folders: what a training run leaves on disk, its card, and its publication.

It takes a recipe and trained weights. It writes a folder for other commands and for a model hub.
"""
