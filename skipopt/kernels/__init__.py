"""Faster linear layers, prepacked or quantized; each is checked against the model before use."""
