"""Samplers: each proposes skip masks and is told their values.

A sampler knows nothing of prompts, storage or what a value means, and most know nothing of models.
"""
