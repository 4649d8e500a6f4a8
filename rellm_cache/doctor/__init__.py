"""Checks of a machine: libraries, processor, GPU, memory, caches, models and the hub.

It takes recipes and cache folders. It returns a list of checks, each with what was found and, if
something is wrong, what to do. No check is listed without having been made.
"""
