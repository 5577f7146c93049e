"""The measurements behind `results/`; run one with `python -m benchmarks.NAME`."""
