"""Maintenance of stores: verify, repair, prune, compact, copy, and exchange as HDF5.

A store's folder enters. A report leaves; only rows with a correct checksum are written again.
"""
