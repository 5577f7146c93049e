"""Small models, fakes and helpers that several tests use."""
