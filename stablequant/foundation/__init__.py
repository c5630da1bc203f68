"""What every other folder may use: errors, progress bars, the registry of plug-ins, memory, reproducible sums."""
