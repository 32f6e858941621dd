"""What a user set: a document of settings, who follows what, and whose alerts go where.

A document is JSON and holds only what was said; ``contents`` knows what it means, ``document``
changes it by paths, ``merging`` makes of all users' rules and channels those of one exchange.
"""
