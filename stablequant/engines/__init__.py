"""What runs a plan: the float simulation, and integer kernels."""
