"""Serving of trained runs: a web page to speak to them, and an HTTP API, from one process.

It takes run folders. The page and the API take speech and text, and return emotions, dimensions
and answers.
"""
