"""The command line: one file per command; each parses, calls, prints and ends with an exit code.

Importing it loads nothing heavy, so that `--help` answers at once.
"""
