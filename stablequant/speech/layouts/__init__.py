"""Data layouts: one file each, found by its name, with the same two constants and two functions.

TITLE                              what it is, for people
RANK                               who answers first: 0 a list in a file, 1 a tree with names of its own, 2 the rest
detect(path) -> bool               whether the data looks like it; opens little, refuses nothing
read(path) -> Iterator[Entry]      each utterance, or the InputError of one that cannot be read

`read` raises InputError only for what spoils the whole list. It need not look whether recordings exist: audio.py does,
for all. Relative paths are resolved against the folder of the list. They may lead out of it, and absolute ones are
taken as they are: recordings often lie elsewhere.
"""
