"""Demo: the whole workflow on 160 short clips with small real models.

Input: the clips of this package, and two installed wheels that hold the models. Output: a cache,
three trained runs and a report.
"""
