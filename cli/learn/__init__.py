"""Commands of the learning loop: comparisons, grade, judge, refit."""
