"""Planners: one file each, with one function that decides for the whole model.

plan(session) -> Plan
"""
