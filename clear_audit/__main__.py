"""The command, as `python -m clear_audit`."""

from clear_audit.command import main

if __name__ == "__main__":
    main()
