"""How fast the pipeline is: several implementations in turns, and their share of the matmul rate."""
