"""Frozen frame encoders, all behind `FrameEncoder`."""
