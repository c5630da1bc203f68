"""The plan: the sites of a model, the choice for each, and the file that stores them."""
