"""The command line: one file per command, which parses, calls, prints and returns an exit code.

It holds no algorithm, no timing and no decoding. Importing it imports nothing heavy, so `--help`
is fast.
"""
