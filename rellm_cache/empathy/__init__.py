"""Empathy scorers after EPITOME: tables, model, training and scoring of replies.

EPITOME's tables, or posts with replies, enter. Trained scorer folders and levels with probabilities
leave.
"""
