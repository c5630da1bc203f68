"""Speech models: loading them, how their families are built, what their tasks are, and the quantized checkpoint."""
