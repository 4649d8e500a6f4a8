"""Functions of the commands `rellm cache …`: info, verify, repair, prune, compact, quantize, copy.

They take a cache root, a store or an HDF5 file, and return one report for each store.
"""
