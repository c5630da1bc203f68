"""Audio files: what a file really is, wrong headers, decoding in order."""
