"""Linear layers computed faster or from fewer bits than the model does it; each checked against the model before use."""
