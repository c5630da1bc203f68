"""What networks are for, a file each; a new task is a file with the functions of base.Task."""

SHARED = ("base", "ctc_words")  # no tasks, but what they have in common or need beside
