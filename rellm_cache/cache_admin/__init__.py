"""The commands `rellm cache …` as functions: info, verify, repair, prune, compact, quantize, copy.

A cache root, a store or an HDF5 file enters. One report for each store leaves.
"""
