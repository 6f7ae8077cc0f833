"""The use cases of a batch: one module each. They know the database and the domain, not Celery and not HTTP."""
