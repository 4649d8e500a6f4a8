"""Planning: estimates of time, memory and disk before anything runs.

It takes a manifest, a recipe and a cache folder. It returns a plan of extraction and training, and
writes no file.
"""
