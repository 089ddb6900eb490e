"""Where metadata enters a network. A new file here is a new injection point."""
