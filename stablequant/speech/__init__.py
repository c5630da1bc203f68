"""Recordings: lists of them, decoding, and cutting long ones at pauses."""
