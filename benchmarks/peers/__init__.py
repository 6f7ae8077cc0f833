"""RouteLLM in an environment of its own, and what both sides of a comparison are given."""
