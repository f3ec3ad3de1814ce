"""The ``dlm`` command."""
