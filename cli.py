"""``python cli.py export …`` from a clone; installed, the same command is ``exporter``."""

from exporter.cli import main

if __name__ == "__main__":
    main(prog_name="cli.py")
