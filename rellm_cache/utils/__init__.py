"""Helpers that know nothing of speech: durable files, resumable results, console, devices, models.

Paths, rows, texts and model names enter. Files that are always complete, messages for the user,
devices and checked model folders leave.
"""
