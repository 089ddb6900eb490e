"""One file a way to choose the next recipe."""
