"""Serving: an HTTP server in OpenAI's form, and the engine behind it, which writes many texts at once (extra serve)."""
