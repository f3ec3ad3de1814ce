"""The forward process, attention masks, and the objective."""
