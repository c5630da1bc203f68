"""What is trained on a grid, with gradients through the rounding: weights of one or several widths, and inputs."""
