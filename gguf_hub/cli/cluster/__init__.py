"""Clusters of machines."""
