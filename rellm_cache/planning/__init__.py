"""Planning: estimates of time, memory and disk before anything runs.

Enters: a manifest, a recipe and a cache folder. Leaves: a plan of extraction and training; nothing
is written.
"""
