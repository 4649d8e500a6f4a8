"""Demo: the whole workflow on 160 short clips with small real models.

It takes the clips of this package, and two installed wheels that hold the models. It writes a
cache, three trained runs and a report.
"""
