"""The Celery side: the app and its schedule, tasks of a line each, the publisher, what ends a worker.

Use cases stand in `routing_service`; `tasks` hands events to `routing_service.service`.
"""
