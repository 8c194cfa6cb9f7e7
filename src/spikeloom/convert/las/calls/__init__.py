"""Functions that a forward calls itself, computed by spikes in the place where they are called.

Rules replace modules; what a ``forward`` computes by ``torch.matmul``, ``x.softmax(-1)`` or
``a * b`` has no module to replace. Such a call is known by the module that makes it and by its
place in the code. While calibration runs, each is given few-spike neurons (:mod:`.kinds`), and
from then on the converted network computes with them whenever its forward comes to that place
(:mod:`.interception`).
"""
