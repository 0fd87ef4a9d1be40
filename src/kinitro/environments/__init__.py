"""Simulated tasks: the contract they keep, the catalogue, the one episode loop and the server that runs it."""
