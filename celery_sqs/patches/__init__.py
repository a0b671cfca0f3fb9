"""All replacements that this package makes in Celery, kombu, billiard, gevent and Flower.

`names` lists the undocumented names of those libraries that this package relies on, with a reason for each.
"""
