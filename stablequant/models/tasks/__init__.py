"""Tasks of networks, one file each; a new one is a file with the functions of base.Task."""

SHARED = (
    "base",
    "ctc_vocabulary",
    "ctc_words",
    "decoding",
    "repetition",
    "unspaced",
    "whisper_alignment",
    "whisper_tokens",
)  # not tasks, but shared or used by them
