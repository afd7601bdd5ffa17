"""A node's own say: what it takes part in, what it lets out, and its record of both.

Between the server's messages and local data. Everything here rests on files in the node's folder
and on what the node counts itself, not on what the server tells it.
"""
