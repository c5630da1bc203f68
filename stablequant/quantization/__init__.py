"""The method: what is observed of a model, where its ranges and roundings come from, and the search for a plan."""
