"""Frozen encoders: Whisper, wav2vec2 for emotion, prosody; and Whisper as a transcriber.

Waveforms enter. Frames at 50 Hz leave, with dimensions or texts from the models that give them.
"""
