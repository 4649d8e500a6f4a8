"""The feature cache: one Zarr store for each encoder, written in immutable parts."""
