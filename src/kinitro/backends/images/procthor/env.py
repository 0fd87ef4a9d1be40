"""Starts the environment server. affinetes takes an image for an HTTP one by this text: FastAPI, and `app = `."""

from kinitro.environments.server import main as app

if __name__ == "__main__":
    app()
