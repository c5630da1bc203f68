"""Families of networks, one file each; a new one is a file with the functions of base.Family."""

SHARED = ("base", "discovery")  # not families, but shared by them
