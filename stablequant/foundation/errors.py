"""The one error that users meet: bad input, told in one sentence that names the file and what to do."""


class InputError(ValueError):
    """A model, recording, transcript, manifest or option that cannot be used; `sfm-quant` then exits with 3."""
