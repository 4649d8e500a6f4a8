"""Frozen encoders: Whisper, wav2vec2 for emotion, prosody; and Whisper as a transcriber.

It takes waveforms. It returns frames at 50 Hz, dimensions or texts, depending on the model.
"""
