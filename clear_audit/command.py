"""The command `clear-audit`."""

from importlib import import_module

from clear_audit.names import own_packages_first


def main() -> None:
    own_packages_first()
    import_module("flows.cli.app").app()
