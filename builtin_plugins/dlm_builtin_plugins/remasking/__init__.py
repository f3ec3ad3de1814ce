"""Remasking rules.

"Exact" in their docstrings means: the same law as committing one token a step in the same order. Tokens committed in
one step are predicted without knowledge of each other, so that every rule that may commit several is approximate there.
"""
