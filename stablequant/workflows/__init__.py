"""The verbs of the command line, a page each: calibrate, evaluate, transcribe."""
