"""Small routers, encoders and labels for tests."""
