"""Planners: one file each, which chooses for the whole model.

plan(session) -> Plan
"""
