"""A model over several machines: stages of its layers, and the driver that looks like one model.

``server`` is a stage: a process that holds the tensors and caches of its layers alone. ``pipeline``
is the driver's end, ``model`` what the generation engine sees. Activations go from stage to stage
over sockets. Who starts the stages' processes, and where, a ``Host`` knows: nothing here knows Ray.
"""
