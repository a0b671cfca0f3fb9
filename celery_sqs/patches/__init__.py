"""Everything that this package replaces in Celery, kombu, billiard, gevent and Flower."""
