"""Flax (linen) modules of Stable Diffusion with the parameter tree of diffusers' and transformers' Flax classes."""
