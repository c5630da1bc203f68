"""Engines run a plan: the float simulation, and oneDNN's integer kernels."""
