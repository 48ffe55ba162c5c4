"""Published files of weights to parameter trees, and back."""
