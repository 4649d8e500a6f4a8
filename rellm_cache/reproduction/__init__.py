"""Reproduction of the paper's Table I on a corpus.

The folder of a corpus, a base recipe and an empathy scorer enter. The table with statistics, an
HTML page and every scored answer leave.
"""
