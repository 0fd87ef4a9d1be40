"""Nothing runs this: affinetes takes an image for an HTTP one by this text (FastAPI, `app = `).

The server is the policy's own server.py.
"""
