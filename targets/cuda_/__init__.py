"""NVIDIA GPUs through TVM's CUDA code generator, for the families that use it (no family of its own).

A compiled model is a module (``kernels.cubin``, ``kernels.ptx``, and their source), its weights, a
*launch plan* (``plan.txt``: every kernel launch with grid, block and the places of its arguments in
one planned arena), and a runner in C that loads the module through the CUDA driver.

Devices: ``cuda`` is a GPU of this machine. ``virtual:cuda`` runs the same kernels' source, the same
plan and the same runner on this machine's processor, behind a driver of ours that executes every
thread of every block (:mod:`.virtual`): outputs are right or wrong there, and nothing is timed.

Nothing here imports TVM at module level; code generation happens in a worker process.
"""
