"""Reproduction of the paper's Table I on a corpus.

Input: the folder of a corpus, a base recipe and an empathy scorer. Output: the table with
statistics, an HTML page and every scored answer.
"""
