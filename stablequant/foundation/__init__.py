"""Used by every other folder: errors, progress bars, the registry of plug-ins, memory."""
