"""Evaluation of trained runs: scores, reports, and judged answers to questions.

Run folders, a manifest and a cache enter. Scores, predictions, an HTML report and judged answers
leave, in files of the run folder.
"""
