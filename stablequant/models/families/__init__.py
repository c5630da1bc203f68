"""Families of networks, a file each; a new one is a file with the functions of base.Family."""

SHARED = ("base", "discovery")  # no families, but what they have in common
