"""Training of low bits: the forward pass is that of the engine, gradients pass straight through the rounding."""
