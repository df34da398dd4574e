"""What a Dask worker imports before it takes work, so that it finds our packages: dask worker … --preload clear_audit.preload"""

from clear_audit.names import own_packages_first

own_packages_first()
