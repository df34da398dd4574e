"""The flow that a deployment of Prefect's runs, where it is found whatever its users call their own folder of flows."""

from importlib import import_module

from clear_audit.names import own_packages_first

own_packages_first()
deployed_audit = import_module("flows.orchestration.schedule").deployed_audit
