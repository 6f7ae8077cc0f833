"""Router versions: fitted routers by number, and the store of their artifacts."""
