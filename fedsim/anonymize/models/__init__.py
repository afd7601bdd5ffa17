"""Syntactic models, one per file: what a class of alike rows must be for a table to be released.

Each judges classes by their histograms, int64 [classes, values]: how many rows of a class have each
sensitive value. `reached` says how much of it the worst class has, `allows` which classes pass.
"""
