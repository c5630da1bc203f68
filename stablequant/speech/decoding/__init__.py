"""Sound files: the real format of a file, wrong headers, decoding in order."""
