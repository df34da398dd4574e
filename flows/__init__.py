"""What runs when and where: config, Prefect flow, Dask cluster, command line, demo."""
