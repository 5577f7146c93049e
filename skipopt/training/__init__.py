"""Training of heads and mask tokens on text that the model generates itself."""
