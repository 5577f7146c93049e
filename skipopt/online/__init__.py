"""What is learned while text is decoded: a better mask, what rounds cost, whether drafts pay."""
