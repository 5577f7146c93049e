"""Trained parts of drafters: the modules, and the checkpoint files that hold them."""
