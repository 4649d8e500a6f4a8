"""Reproduction of the paper's Table I on a corpus.

It takes the folder of a corpus, a base recipe and an empathy scorer. It writes the table with
statistics, an HTML page and every scored answer.
"""
