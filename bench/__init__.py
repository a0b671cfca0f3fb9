"""The figures, and what they are measured with."""
