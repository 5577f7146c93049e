"""What decoding costs on this machine, as values, and the replay of drafts at those costs."""
