"""Data layouts: one file each, found by its name, with the same two constants and two functions.

TITLE                              what it is, for people
RANK                               which is asked first: 0 a list in a file, 1 a tree with fixed names, 2 the rest
detect(path) -> bool               whether the data looks like it; opens little, refuses nothing
read(path) -> Iterator[Entry]      each utterance, or the InputError of one that cannot be read

`read` raises InputError only for a problem of the whole list. It need not check that recordings exist: audio.py does
this for all. Relative paths are resolved against the folder of the list. They may lead out of it, and absolute paths
are used as they are, because recordings are often elsewhere.
"""
