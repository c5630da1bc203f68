"""What the networks are for."""
