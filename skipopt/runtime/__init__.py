"""How forwards are run: engine, KV cache, attention masks, captured steps and their backends."""
