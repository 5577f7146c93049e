"""A search from prompts to a profile.

The phases, each in its own module: calibration, cost measurement, optimization (the trial loop),
rescoring, draft configurations, validation and the profile. `study` strings them together.
"""
