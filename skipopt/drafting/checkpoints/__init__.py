"""What a drafter learned: the modules, and the files they are kept in."""
