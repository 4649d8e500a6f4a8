"""Linear probes: which layer of which encoder carries emotion, dimensions, speaker and text.

It takes a manifest, a recipe and the stores of the cache. It returns the scores of linear models on
means and standard deviations of the frames, and writes them as JSON and as a page.
"""
