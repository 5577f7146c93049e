"""Load a model, find its sublayers and prove that each can be skipped; skip masks and patches."""
