"""Pure scoring: outcomes to comparisons, to prizes, to weights (contracts section 8)."""
