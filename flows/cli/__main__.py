"""The command line, as `python -m flows.cli`."""

from flows.cli.app import app

if __name__ == "__main__":
    app()
