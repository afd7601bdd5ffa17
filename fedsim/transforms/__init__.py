"""Transforms: what is done to clients' updates before they are added up.

Written for a leading client axis, so that one client and a whole block take the same code.
"""
