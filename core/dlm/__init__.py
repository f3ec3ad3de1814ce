"""Turn a pretrained autoregressive decoder into a masked-diffusion language model."""

__version__ = "0.1.0"
