"""The `routebatch` command: `batch` talks HTTP with a key, the other folders use the database and files."""
