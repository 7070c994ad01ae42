"""The iOS sample, checked without a Mac: ``make ios-check``."""
