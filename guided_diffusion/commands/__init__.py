"""One file a command: its config and its function."""
