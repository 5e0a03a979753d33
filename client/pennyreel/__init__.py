"""pennyreel."""
