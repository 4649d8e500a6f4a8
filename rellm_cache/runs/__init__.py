"""Run folders: what a training run leaves on disk, its card, and its publication.

Input: a recipe and trained weights. Output: a folder for other commands and for a model hub.
"""
