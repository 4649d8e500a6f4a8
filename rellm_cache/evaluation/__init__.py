"""Evaluation of trained runs: scores, reports, and judged answers to questions.

It takes run folders, a manifest and a cache. It writes scores, predictions, an HTML report and
judged answers into the run folder.
"""
