"""A federation on real machines: what operators need, processes of Flower, runs submitted to them.

`bundle` makes folders, `processes` and `warm` start Flower's programs, `control` talks to a
SuperLink, `server_app` is what runs inside it, `submit` and `local` are the commands.
"""
