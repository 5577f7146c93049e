"""Programs that make package data; run one with `python -m tools.NAME`."""
