"""The decoding loop (prefill, draft, verify, commit), and generation of tokens and text."""
