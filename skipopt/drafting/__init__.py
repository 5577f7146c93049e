"""Drafters, one file each: `propose(state, limit) -> DraftTree`, `observe(outcome)`."""
