"""The wire between an episode and a policy."""
