"""Verification: which drafted tokens are accepted, and the token the target adds."""
