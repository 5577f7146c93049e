"""Other engines, each run by a Python environment of its own."""
