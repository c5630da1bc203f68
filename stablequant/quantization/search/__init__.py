"""The search for a plan: choices, trials and their scores, rounding behind quantized layers, and resuming."""
