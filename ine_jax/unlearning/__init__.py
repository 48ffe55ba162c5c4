"""Unlearning methods: fine-tune a model to forget, and write the weights in the method's published format."""
