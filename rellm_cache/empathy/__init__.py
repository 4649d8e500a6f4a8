"""Empathy scorers after EPITOME: tables, model, training and scoring of replies.

Input: EPITOME's tables, or posts with replies. Output: folders of trained scorers, or levels with
probabilities.
"""
