"""Planning: estimates of time, memory and disk before anything runs.

Input: a manifest, a recipe and a cache folder. Output: a plan of extraction and training; no file
is written.
"""
