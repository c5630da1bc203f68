"""The commands, one page each: calibrate, evaluate, transcribe."""
