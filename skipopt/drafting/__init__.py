"""Drafters, one per file: each guesses the next tokens; wrong guesses cost time only."""
