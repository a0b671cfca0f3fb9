"""Everything that this package replaces in Celery, kombu, billiard, gevent and Flower.

`names` lists what those libraries do not document and this package relies on, with the reason for each name.
"""
