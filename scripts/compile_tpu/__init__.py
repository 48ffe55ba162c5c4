"""Compile the full-size programs for TPUs on a machine without one, and report what they need."""
