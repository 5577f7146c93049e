"""The decoding loop and its callers: `generate` by method name or profile, and in transformers."""
