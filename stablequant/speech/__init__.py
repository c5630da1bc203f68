"""Recordings in: their lists, decoding, and cutting long ones at pauses."""
