"""Looking for good skip masks. Samplers know nothing of models or prompts, but for `dp`."""
