"""The commands, one a file, and the options that several of them take."""
