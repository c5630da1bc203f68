"""Sound files as they are: what a file really is, headers that are wrong, decoding in order."""
