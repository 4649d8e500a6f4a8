"""Demo: the whole workflow on 160 short clips with small real models.

Enters: the clips of this package, and two installed wheels that carry the models. Leaves: a cache,
three trained runs and a report.
"""
