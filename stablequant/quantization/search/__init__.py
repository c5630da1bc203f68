"""What planners search with: choices, trials and their scores, rounding behind quantized layers, resuming.

Who decides, and selects layers, is a planner (../planners).
"""
