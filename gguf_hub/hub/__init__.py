"""What to run: catalog, hardware, fit, survey, the hub's client, downloads and the store."""
