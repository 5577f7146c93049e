"""The parts of `benchmarks.gpu`: a module for each, and what they share.

A part is a function of a `Session` that yields its results so far after each step, so that they
can be saved. Parts share nothing but files in the session's working folder.
"""
