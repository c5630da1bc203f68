"""What forward passes show: histograms and Gram matrices of what sites read, and cached layer outputs."""
