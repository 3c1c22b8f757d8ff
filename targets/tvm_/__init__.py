"""Apache TVM as an engine for CPUs, shared by the families that use it (no family of its own).

What a family's backend calls::

    from edgekit_targets.tvm_ import check, isa, support, build, runner, tune

    check.why_not()                       # None, or why TVM cannot be used here
    target = isa.aarch64("cortex-a76")    # or isa.x86_64(features), isa.host()
    support.unsupported(graph, target)    # nodes that cannot be lowered, with reasons
    build.compile_model(graph, target, folder)      # lib.so, runner, runtime libraries, plan
    runner.run / runner.time_model / runner.trace   # on a folder built so

Nothing here imports TVM at module level; everything that runs TVM does it in a worker process,
which may crash or hang without taking the caller along.
"""
