"""The error for bad input: one sentence that names the file, what is wrong and what to do."""


class InputError(ValueError):
    """A model, recording, transcript, manifest or option that cannot be used; `sfm-quant` then exits with 3."""
