"""Accepts what services report by HTTP, and turns it into messages of the callbacks queue.

Nothing here parses the report: a worker or function does that when it records the message (emails/callbacks).
"""
