"""Linear layers that run faster or on fewer bits; each is checked against the model before use."""
