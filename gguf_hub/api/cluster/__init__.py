"""Clusters of machines: finding them, planning who holds what, starting stages there.

``run.cluster`` computes; here are Ray, the machines' facts and the plan.
"""
