"""``report.html`` and ``report.json``: what an export made, how large and how faithful it is, and what failed.

The page is one file that asks no server for anything. It shows what the manifest says and, from ``report.json``, what
would be too long for a manifest: numbers of every tensor and position. Neither has a time in it.
"""
