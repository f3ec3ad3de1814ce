"""Evaluation: likelihood (bound, exact), perplexity, accuracy with intervals; questions, answers; reports."""
