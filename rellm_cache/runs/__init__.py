"""Run folders: what a training run leaves on disk, its card, and its publication.

A recipe and trained weights enter. A folder leaves that other commands load and a hub takes.
"""
