"""Is it faster, and is it the same text: paired timing, the methods table, the regression gate."""
