"""The plan: sites of a model, what is chosen for each, and the file that says so."""
