"""What a Dask worker imports before it takes work, so that it finds our packages: dask worker … --preload clear_audit.preload"""

from importlib import import_module

from clear_audit.names import own_packages_first

own_packages_first()
dask_setup = import_module("flows.preload").dask_setup
