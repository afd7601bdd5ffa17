"""Secure aggregation: the server learns the sum of its clients' vectors, and no vector.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning" (CCS 2017),
with the sparse graphs of Bell et al., "Secure single-server aggregation with (poly)logarithmic
overhead" (CCS 2020). Nothing here knows how messages travel or what the vectors mean.
"""
