"""The decoding loop (prefill, draft, verify, commit) and the ways into it: by name, by profile, inside transformers."""
