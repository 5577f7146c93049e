"""How a step of n tokens is run: the KV cache, packed weights, and what things cost."""
