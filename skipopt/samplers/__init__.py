"""Samplers: each proposes skip masks and is told their values."""
