"""The Celery side: the app and its schedule, thin tasks, the publisher. Use cases stand in routing_service."""
