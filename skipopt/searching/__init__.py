"""Looking for good skip masks. Knows nothing of models, prompts or what a mask's value means."""
