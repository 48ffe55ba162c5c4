"""Prompts to images: compiled programs, the sampling loop, noise, the device mesh."""
