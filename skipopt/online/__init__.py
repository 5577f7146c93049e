"""Estimates made while decoding: costs, acceptance, whether drafting pays, a better mask.

Knows nothing of drafters: they report their rounds here.
"""
