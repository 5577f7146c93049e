"""What was measured and decided, made readable. Measures nothing itself."""
