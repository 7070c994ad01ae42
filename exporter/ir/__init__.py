"""The common graph: op vocabulary, builder, verifier, printer, storage and the torch interpreter."""
