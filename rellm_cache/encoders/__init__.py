"""Frozen encoders: Whisper, audio encoders of transformers, prosody; and a transcriber.

It takes waveforms. It returns frames, mostly at 50 Hz, dimensions or texts.
"""
