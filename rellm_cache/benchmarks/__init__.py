"""Public benchmarks: trains and tests a recipe by their protocols.

The folds of a benchmark enter, as manifest folders, and a cache with their frames. Run folders
leave, and a table of scores beside published ones.
"""
