"""Where trials are kept: in memory, in a journal file, or in storage shared by workers."""
