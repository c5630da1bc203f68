"""The error for bad input: one sentence that names the file, what is wrong and what to do."""


class InputError(ValueError):
    """A model, recording, transcript, manifest or option that cannot be used; `sfm-quant` then exits with 3."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, without details below it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
