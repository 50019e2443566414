"""How a running model lies in memory: formulas that kernels, programs and ``hub.fit`` share."""
