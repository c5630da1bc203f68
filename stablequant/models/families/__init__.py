"""How the networks are built."""
