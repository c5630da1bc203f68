"""Range methods: one file each, with the same two pure functions.

activations(histogram, grid) -> (low, high)     what the integer grid of a tensor covers
weights(weight (out, n), grid) -> limit (out,)  what the symmetric grid of each output channel reaches
"""
