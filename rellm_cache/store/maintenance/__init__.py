"""Maintenance of stores: verify, repair, prune, compact, copy, and exchange as HDF5.

Functions take a store's folder and return a report. They write only rows with correct checksums.
"""
