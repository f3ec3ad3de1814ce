"""Diffusion: the forward process (noise), attention masks, and the training objective."""
