"""What fused structures are made of: int8 products, quantized modules, attention, and a stopwatch."""
