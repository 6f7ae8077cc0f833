"""The domain and its HTTP API. It knows nothing of Celery, of click, or of training loops."""
