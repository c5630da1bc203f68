"""The integer grids of activations and weights."""
