"""Linear layers computed faster, or from fewer bits; checked against the model before use."""
