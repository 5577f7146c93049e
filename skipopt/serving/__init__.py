"""Models with a profile for others to run: folders for transformers, and a server."""
