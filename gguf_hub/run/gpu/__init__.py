"""Running steps of a program on GPUs, by WGSL kernels (see ``device`` and ``part``)."""
