"""Programs for backends that compile a graph of torch's: the decoder as a module, captured and lowered by executorch.

Importing this package imports neither torch nor executorch.
"""
