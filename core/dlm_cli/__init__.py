"""The ``dlm`` command line."""
