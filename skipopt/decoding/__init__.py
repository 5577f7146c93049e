"""The decoding loop (prefill, draft, verify, commit), and generation by method or profile."""
