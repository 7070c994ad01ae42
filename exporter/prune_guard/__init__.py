"""Pruning as graph passes, what decides it, and the guard that the recipe for Llama Guard 3 1B makes of a Llama."""
