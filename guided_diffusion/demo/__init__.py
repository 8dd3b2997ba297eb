"""The demonstration on handwritten digits, by the same commands that a user gives."""
