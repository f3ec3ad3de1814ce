"""The commands of ``dlm``, one module each."""
