"""PQL, the query language of a peer: text → syntax → typed plan → rows.

Pure, except for the evaluation over async iterators. Opens no socket or file and reads no clock.
"""
