"""Interop: models come in from where they are published and go out to where they are served or published."""
