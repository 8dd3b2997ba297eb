"""One file a form in which images lie on disk."""
