"""Observations of forward passes: histograms and Gram matrices of the inputs of sites, and cached layer outputs."""
