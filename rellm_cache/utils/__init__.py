"""Helpers not specific to speech: durable files, resumable results, console, devices, models.

They write files that are always complete, print messages for the user, choose devices, and find
and check model folders.
"""
