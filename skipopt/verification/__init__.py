"""Decide which drafted tokens stand, and what the target says next."""
