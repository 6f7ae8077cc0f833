"""Plans: what a ranking buys, growth, recorded answers replayed."""
