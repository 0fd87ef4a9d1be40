"""Are the prerequisites of each role there? Looked at, never changed. `examine.examine` does it."""
