"""The commands, one page each: calibrate, tune (training of low bits), evaluate, transcribe."""
