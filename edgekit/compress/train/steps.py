"""The training steps of recipes. Each is one of this package's functions with a recipe's options.

All of them train float graphs: they stand before ``quantize`` in a recipe (``qat`` and ``adaround``
make the integer graph themselves). The teacher is the network that the recipe began with.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from edgekit.compress.steps import Count, Share, StepContext, Within, step
from edgekit.compress.train.options import Augmentation, TrainOptions
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

if TYPE_CHECKING:
    from edgekit.compress.train.batches import TrainData

Rate = Annotated[float, Within(0, open_low=True)]
Unit = Annotated[float, Within(0, 1)]
_OWN = {"steps", "batch", "lr", "augment", "seed", "device"}


def float_graph(graph: Graph, what: str) -> Graph:
    """``graph``; InputError when it holds integers that training cannot move."""
    for t in graph.tensors.values():
        if t.quant is not None:
            raise InputError(
                f"{what} trains float models and '{graph.name}' is quantized (tensor '{t.name}'); "
                "a recipe with it before 'quantize' would be accepted"
            )
    return graph


def training_data(graph: Graph, ctx: StepContext, what: str, labels: bool = False) -> TrainData:
    """The context's samples for training; InputError where there are none, or no labels."""
    from edgekit.compress.train.batches import TrainData

    inputs = ctx.inputs(graph, what, at_least=2)
    y = ctx.labels(graph)
    if labels and y is None:
        raise InputError(f"{what} needs labels; give some with --data file.npz:x_key,y_key")
    return TrainData(tuple(inputs), y)


def options_of(
    ctx: StepContext,
    samples: int,
    steps: int | None,
    epochs: float | None,
    batch: int,
    lr: float,
    augment: list[Augmentation],
    training: dict[str, Any] | None,
    **defaults: Any,
) -> TrainOptions:
    """A recipe's options as :class:`TrainOptions`; ``epochs`` counts where ``steps`` is not given."""
    more = dict(training or {})
    known = {f.name for f in fields(TrainOptions)} - _OWN
    for name in more:
        if name not in known:
            raise InputError(
                f"training option '{name}' is unknown; known are {', '.join(sorted(known))}"
            )
    if steps is None:
        steps = round((20.0 if epochs is None else epochs) * samples / min(batch, samples))
    return TrainOptions(**{**defaults, **more}, steps=max(1, steps), batch=batch, lr=lr,
                        augment=tuple(augment), seed=1000 * ctx.seed + ctx.index,
                        device=ctx.device)  # fmt: skip


@step("fine-tune", cites="cross-entropy training; batch norm: Ioffe & Szegedy, ICML 2015")
def fine_tune(
    graph: Graph,
    ctx: StepContext,
    *,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    label_smoothing: Unit = 0.0,
    keep_zeros: bool = True,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train with labels."""
    from edgekit.compress.train import distill as d

    data = training_data(float_graph(graph, "fine-tune"), ctx, "fine-tune", labels=True)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    run = d.fine_tune(graph, data, options, label_smoothing=label_smoothing,
                      keep_zeros=keep_zeros, work=ctx.work, progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options))
    return run.graph


@step(
    "distill",
    cites="Hinton et al. 2015; Zagoruyko & Komodakis, ICLR 2017; Romero et al., ICLR 2015",
)
def distill(
    graph: Graph,
    ctx: StepContext,
    *,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    labels: Unit = 0.0,
    hints: Literal["none", "attention", "feature"] = "none",
    hint_weight: Rate = 1.0,
    hint_tensors: list[str] | None = None,
    keep_zeros: bool = True,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Teach the network to answer as the original one, on unlabelled samples or with labels mixed in."""
    from edgekit.compress.train import distill as d

    data = training_data(float_graph(graph, "distill"), ctx, "distill", labels > 0)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training,
                         average=0.999)  # fmt: skip
    run = d.distill(graph, ctx.original or graph, data, options, temperature=temperature,
                    labels=labels, hints=hints, hint_weight=hint_weight,
                    hint_tensors=hint_tensors, keep_zeros=keep_zeros, work=ctx.work,
                    progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options))
    return run.graph


@step("born-again", cites="Furlanello et al., ICML 2018")
def born_again(
    graph: Graph,
    ctx: StepContext,
    *,
    generations: Count = 2,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    labels: Unit = 0.0,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Generations of the network, each taught by the one before and the original."""
    from edgekit.compress.train import distill as d

    data = training_data(float_graph(graph, "born-again"), ctx, "born-again", labels > 0)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    run = d.born_again(graph, ctx.original or graph, data, options, generations=generations,
                       temperature=temperature, labels=labels, work=ctx.work,
                       progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options))
    return run.graph


@step("snapshot-distill", cites="Huang et al., ICLR 2017")
def snapshot_distill(
    graph: Graph,
    ctx: StepContext,
    *,
    cycles: Annotated[int, Within(2)] = 3,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Teach the network by the ensemble of the minima of one cyclic run, with as many steps again."""
    from edgekit.compress.train import distill as d
    from edgekit.compress.train.objectives import Distillation

    data = training_data(float_graph(graph, "snapshot-distill"), ctx, "snapshot-distill")
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    goal = Distillation(graph, [ctx.original or graph], temperature=temperature)
    found = d.snapshots(graph, goal, data, options, cycles=cycles, work=ctx.work,
                        progress=ctx.progress)  # fmt: skip
    run = d.distill(found[-1], found, data, options, temperature=temperature, work=ctx.work,
                    progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), snapshots=len(found))
    return run.graph


@step("mutual", cites="Zhang et al., CVPR 2018")
def mutual(
    graph: Graph,
    ctx: StepContext,
    *,
    labels: bool = False,
    weight: Rate = 1.0,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train beside a copy of the original, each following the other (and labels, or the original)."""
    from edgekit.compress.train import distill as d

    data = training_data(float_graph(graph, "mutual"), ctx, "mutual", labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    original = ctx.original or graph
    run = d.mutual(graph, original, data, options, teacher=None if labels else original,
                   weight=weight, work=ctx.work, progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options))
    return run.graph


def facts(run: Any, options: TrainOptions) -> dict[str, Any]:
    """What the log says of a training run."""
    loss = [v for _, v in run.loss]
    return {
        "training": options.to_json(),
        "loss": {"first": loss[0], "last": loss[-1]} if loss else {},
        "precision": run.precision,
        "resumed_after_step": run.resumed,
    }


@step("adaround", cites="Nagel et al., ICML 2020")
def adaround(
    graph: Graph,
    ctx: StepContext,
    *,
    observer: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto",
    equalize: bool = False,
    bits: Literal[8, 4] = 8,
    first_and_last: Literal[8, 4] = 8,
    iterations: Count = 500,
    samples: Count = 200,
) -> Graph:
    """Post-training quantization with learned rounding of the weights, to int8 or int4."""
    from edgekit.compress.ptq import QuantizeOptions
    from edgekit.compress.train.adaround import AdaRoundOptions
    from edgekit.compress.train.adaround import adaround as function

    options = AdaRoundOptions(iterations=iterations, bits=bits, first_and_last=first_and_last,
                              seed=1000 * ctx.seed + ctx.index)  # fmt: skip
    inputs = ctx.inputs(float_graph(graph, "adaround"), "adaround", samples, at_least=2)
    quantize = QuantizeOptions(observer=observer, equalize=equalize)
    return function(graph, inputs, quantize, options, ctx.progress)


@step("qat", cites="Esser et al., LSQ, ICLR 2020; Jacob et al., CVPR 2018")
def qat(
    graph: Graph,
    ctx: StepContext,
    *,
    bits: Literal[8, 4] = 8,
    first_and_last: Literal[8, 4] = 8,
    observer: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto",
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 64,
    lr: Rate = 5e-4,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    labels: Unit = 0.0,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train under int8 (or int4 weight) arithmetic, taught by the original; gives the integer graph."""
    from edgekit.compress.ptq import QuantizeOptions
    from edgekit.compress.train.objectives import Distillation
    from edgekit.compress.train.qat import qat as function

    data = training_data(float_graph(graph, "qat"), ctx, "qat", labels > 0)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    out, run = function(
        graph,
        lambda g: Distillation(g, [ctx.original or graph], temperature=temperature, labels=labels),
        data, options, quantize=QuantizeOptions(observer=observer), bits=bits,
        first_and_last=first_and_last, work=ctx.work, progress=ctx.progress,
    )  # fmt: skip
    ctx.note(**facts(run, options))
    return out


# -- sparse ----------------------------------------------------------------------------------------


def _goal(ctx: StepContext, graph: Graph, labels: bool) -> Any:
    """What makes the objective: labels where asked for, else the original's answers."""
    from edgekit.compress.train.objectives import CrossEntropy, Distillation

    teacher = ctx.original or graph
    return CrossEntropy if labels else (lambda g: Distillation(g, [teacher]))


@step("gradual-magnitude", cites="Zhu & Gupta 2017; LAMP: Lee et al., ICLR 2021")
def gradual_magnitude(
    graph: Graph,
    ctx: StepContext,
    *,
    keep: Share,
    labels: bool = False,
    begin: Unit = 0.0,
    end: Unit = 0.7,
    every: Count = 10,
    per_layer: bool = False,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train while the smallest weights are set to zero, along a cubic schedule."""
    from edgekit.compress.train.masks import sparsity
    from edgekit.compress.train.sparse.gradual import Gradual
    from edgekit.compress.train.trainer import train

    what = "gradual-magnitude"
    data = training_data(float_graph(graph, what), ctx, what, labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    masks = Gradual(graph, options.steps, keep, begin=begin, end=end, every=every,
                    per_layer=per_layer)  # fmt: skip
    run = train(graph, data, _goal(ctx, graph, labels)(graph), options, extensions=[masks],
                work=ctx.work, name=what, progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), sparsity=sparsity(run.graph))
    return run.graph


@step("sparse-train", cites="SNIP: Lee et al., ICLR 2019; SET: Mocanu et al., 2018; RigL: Evci et al., "
      "ICML 2020; sparse momentum: Dettmers & Zettlemoyer 2019; dynamic sparse reparameterization: Mostafa "
      "& Wang, ICML 2019; variational dropout: Molchanov et al., ICML 2017")  # fmt: skip
def sparse_train(
    graph: Graph,
    ctx: StepContext,
    *,
    method: Literal["snip", "set", "rigl", "momentum", "dsr", "variational", "random"],
    keep: Share,
    fresh: bool = True,
    labels: bool = False,
    share: Unit = 0.3,
    every: Count = 100,
    until: Unit = 0.75,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 4e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train a sparse network from fresh weights (or the given ones): the masks are SNIP's, move by
    SET, RigL, sparse momentum or DSR, come from variational dropout, or are random (the control).

    share, every, until: of masks that move. variational: half of the steps with noise, half without."""
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.masks import Masks, masked, sparsity
    from edgekit.compress.train.sparse.dynamic import Dynamic, erdos_renyi
    from edgekit.compress.train.sparse.redistribute import Redistributing
    from edgekit.compress.train.sparse.snip import snip
    from edgekit.compress.train.trainer import train

    data = training_data(float_graph(graph, "sparse-train"), ctx, "sparse-train", labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    start = reinitialize(graph, data.inputs, options.seed) if fresh else graph
    goal = _goal(ctx, graph, labels)
    if method == "snip":
        found = snip(start, data, goal(start), keep, seed=options.seed)
    elif method == "variational":
        from edgekit.compress.train.sparse.variational import variational_dropout

        options = replace(options, steps=max(1, options.steps // 2))
        noisy = variational_dropout(start, goal(start), data, options, keep=keep, work=ctx.work,
                                    progress=ctx.progress)  # fmt: skip
        start, found = noisy.graph, noisy.masks
        ctx.note(noise=noisy.noise)
    else:
        found = erdos_renyi(start, keep, options.seed)
    start = masked(start, found)
    masks = Masks(found)
    if method in ("set", "rigl"):
        masks = Dynamic(found, options.steps, grow="random" if method == "set" else "gradient",
                        share=share, every=every, until=until, seed=options.seed)  # fmt: skip
    elif method in ("momentum", "dsr"):
        masks = Redistributing(found, options.steps, method=method, share=share, every=every,
                               until=until, seed=options.seed)  # fmt: skip
    run = train(start, data, goal(start), options, extensions=[masks], work=ctx.work,
                name=f"sparse {method}", progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), sparsity=sparsity(run.graph))
    return run.graph


@step(
    "lottery",
    cites="Frankle & Carbin, ICLR 2019; Frankle et al., ICML 2020; Renda et al., ICLR 2020",
)
def lottery(
    graph: Graph,
    ctx: StepContext,
    *,
    keep: Share,
    rounds: Count = 3,
    rewind: Literal["start", "early", "learning-rate", "fresh"] = "early",
    early: Unit = 0.05,
    fresh: bool = True,
    labels: bool = False,
    per_layer: bool = False,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 4e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Rounds of training, dropping the smallest weights and rewinding, from fresh weights (or the
    given ones)."""
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.masks import sparsity
    from edgekit.compress.train.sparse.lottery import lottery as function

    data = training_data(float_graph(graph, "lottery"), ctx, "lottery", labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    start = reinitialize(graph, data.inputs, options.seed) if fresh else graph
    ticket = function(start, _goal(ctx, graph, labels), data, options, keep=keep, rounds=rounds,
                      rewind=rewind, early=early, per_layer=per_layer, work=ctx.work,
                      progress=ctx.progress)  # fmt: skip
    ctx.note(training=options.to_json(), sparsity=sparsity(ticket.graph))
    return ticket.graph


@step("early-bird", cites="You et al., ICLR 2020")
def early_bird(
    graph: Graph,
    ctx: StepContext,
    *,
    keep: Share,
    every: Count = 50,
    window: Count = 3,
    bound: Unit = 0.1,
    multiple: Count = 1,
    fresh: bool = True,
    labels: bool = False,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 4e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train from fresh weights until the channel mask has settled, cut the channels, train the rest."""
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.sparse.early_bird import early_bird as function
    from edgekit.compress.train.trainer import train

    data = training_data(float_graph(graph, "early-bird"), ctx, "early-bird", labels)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    start = reinitialize(graph, data.inputs, options.seed) if fresh else graph
    goal = _goal(ctx, graph, labels)
    bird = function(start, goal(start), data, options, keep=keep, every=every, window=window,
                    bound=bound, multiple=multiple, work=ctx.work, progress=ctx.progress)  # fmt: skip
    run = train(bird.graph, data, goal(bird.graph), options, work=ctx.work, name="early bird, cut",
                progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), settled_at_step=bird.step, mask_distances=list(bird.distances))
    return run.graph


@step("distill-data-free", cites="Nayak et al., ICML 2019; Yin et al., DeepInversion, CVPR 2020")
def distill_data_free(
    graph: Graph,
    ctx: StepContext,
    *,
    low: float,
    high: float,
    samples: Count = 1000,
    synthesis_steps: Annotated[int, Within(0)] = 60,
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 128,
    lr: Rate = 2e-3,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Distill on inputs that are made from the original network alone, in the range [low, high]."""
    from edgekit.compress.train import distill as d
    from edgekit.compress.train.batches import TrainData
    from edgekit.compress.train.synthesize import SynthesisOptions, synthesize

    what = "distill-data-free"
    teacher = ctx.original or graph
    made = synthesize(
        float_graph(teacher, what),
        SynthesisOptions(samples, low, high, synthesis_steps, seed=1000 * ctx.seed + ctx.index),
        progress=ctx.progress,
    )
    data = TrainData(tuple(made))
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    run = d.distill(float_graph(graph, what), teacher, data, options, temperature=temperature,
                    work=ctx.work, progress=ctx.progress)  # fmt: skip
    ctx.note(**facts(run, options), synthesized=samples)
    return run.graph
