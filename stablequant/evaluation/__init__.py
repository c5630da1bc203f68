"""Word errors, speed and memory, with confidence intervals, and the limits on them."""
