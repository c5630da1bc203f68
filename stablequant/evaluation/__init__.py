"""Word errors, speed and memory, how sure they are, and the gates on them."""
