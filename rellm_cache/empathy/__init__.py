"""Empathy scorers after EPITOME: tables, model, training and scoring of replies.

It takes EPITOME's tables, or posts with replies. It returns trained scorers, or levels with
probabilities.
"""
