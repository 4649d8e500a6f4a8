"""Evaluation of trained runs: scores, reports, and judged answers to questions.

Input: run folders, a manifest and a cache. Output: scores, predictions, an HTML report and judged
answers, as files in the run folder.
"""
