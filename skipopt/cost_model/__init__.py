"""What decoding costs on this machine, and the speed that a draft is predicted to have.

Knows nothing of how costs are measured or traces are made.
"""
