"""What `benchmarks/gpu.py` is made of: a module for each part, and what parts share.

A part is a function of a `Session` that yields what it has found so far, again and again, so that
whoever runs it can save after each step. Parts know nothing of each other but through files in
the session's working folder.
"""
