"""Families of networks, one file each; a new one is a file with the functions of base.Family."""

SHARED = ("base", "sites")  # not families, but shared by them
