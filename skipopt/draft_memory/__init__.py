"""Where the last tokens of a text occurred before: in the text, and in earlier ones."""
