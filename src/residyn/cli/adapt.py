"""`residyn adapt`: bring a model to a new domain by residual corrections, without a label of it."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residyn import provenance, report
from residyn.cli.options import Debug, Json, Seed, command
from residyn.cli.output import deliver, leave, say
from residyn.errors import InputError
from residyn.results import Result

if TYPE_CHECKING:
    from torch import nn

    from residyn.transfer.adapting import Adaptation, Watch
    from residyn.transfer.judging import Judgement
    from residyn.transfer.reading import Domain


def adapt(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Samples with classes: npz, csv, parquet, or folders of pictures.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Samples of the new domain; classes, if any, judge at the end.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="package.module:factory, FILE.pt2 or hf:DIRECTORY; else one is trained here."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", metavar="FILE", help="Weights of MODEL, safetensors.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write a report: .html .json .csv .txt")
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option("--branch", metavar="FILE.safetensors", help="Write the corrections, with the model if it is made here."),
    ] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", metavar="FILE.csv", help="Write the class of each target sample.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="NAME", help="Array or column of classes.")] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="SHARE", help="Share of a labelled target that only judges.")
    ] = 0.3,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps of training a recipe.")] = 300,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Hidden width of a correction.")] = 128,
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", help="Side to which pictures are resampled.")] = 32,
    channels: Annotated[int | None, typer.Option("--channels", metavar="N", help="1 for grey pictures, 3 for colour.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train residual corrections of a frozen model on unlabelled samples of a new domain."""
    began, started = time.perf_counter(), provenance.now()
    _outputs(output, branch, predictions, force=force)
    if not 0 <= held_out < 1:
        raise InputError(f"`--held-out` must be a share in [0, 1), got {held_out}; 0 judges by the samples it was adapted to")
    for name, number in (("--steps", steps), ("--width", width)):
        if number < 1:
            raise InputError(f"`{name}` must be a whole number >= 1, got {number}")
    from residyn.transfer import adapting
    from residyn.transfer.assessment import assess
    from residyn.transfer.reading import aligned, class_names, numbered, read_domain

    first = read_domain(source, labels=labels, size=size, channels=channels)
    second = _second(target, labels, size, channels or (first.x.shape[1] if first.x.ndim == 4 else None))
    second = aligned(first, second)
    names = class_names(first)
    y = numbered(first, names)
    fitted, tested = _split(second, held_out, seed)
    net = _model(model, weights, first, len(names), seed)
    adaptation = adapting.adapt(net, (first.x, y), fitted.x, steps=steps, width=width, seed=seed, watch=_watch())
    judged = None if tested is None else _judged(adaptation, tested, names)
    how = "" if tested is None else f"judged by {len(tested.x):,} samples" + (" held out" if tested.x is not fitted.x else "")
    section = assess(adaptation, judged, source=Path(source).name, target=Path(target).name, tested=how)
    options = {"model": model, "weights": weights, "labels": labels, "held-out": held_out, "steps": steps, "width": width}
    options |= {"size": size, "channels": channels, "seed": seed}
    seconds = time.perf_counter() - began
    section = replace(section, seconds=seconds)
    line = command("adapt", [source, target], options)
    result = Result("adapt", section.title, [section], line, seed, provenance.versions(), started, seconds)
    if branch is not None:
        _save(adaptation, branch, own=model is None)
    if predictions is not None:
        _predict(adaptation, second, names, predictions)
    deliver(result, output, as_json=as_json)
    leave(result)


def _outputs(output: str | None, branch: str | None, predictions: str | None, *, force: bool) -> None:
    """Refuse outputs that could not be written, before the work."""
    if output is not None:
        report.check(output)
    if branch is not None:
        from residyn.training.storage import check_weights

        check_weights(branch)
    if predictions is not None and Path(predictions).suffix.lower() != ".csv":
        raise InputError(f"`--predictions` must end in .csv, got {predictions!r}; add the ending")
    for option, path in (("-o", output), ("--branch", branch), ("--predictions", predictions)):
        if path is not None:
            _free(option, path, force=force)


def _free(option: str, path: str, *, force: bool) -> None:
    """Refuse a place that is not there, or taken."""
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"`{option}` must be in a folder that exists, got {path!r}; make it first")
    if Path(path).exists() and not force:
        raise InputError(f"`{option}` must be a file that is not there yet, got {path!r}; --force replaces it")


def _second(target: str, labels: str | None, size: int, channels: int | None) -> Domain:
    """The target, which need not have the column of labels that the source has."""
    from residyn.transfer.reading import read_domain

    try:
        return read_domain(target, labels=labels, size=size, channels=channels)
    except InputError as error:
        if labels is None or "must hold the labels" not in str(error):
            raise
        return read_domain(target, size=size, channels=channels)


def _model(model: str | None, weights: str | None, source: Domain, classes: int, seed: int) -> nn.Module:
    from residyn.transfer.networks import trained
    from residyn.transfer.reading import class_names, numbered

    if model is not None:
        from residyn.audit.loading import load

        return load(model, weights)
    if weights is not None:
        raise InputError(f"`--weights` must come with `--model`, got {weights!r} alone; say what the weights are of")
    if classes < 2 or len(set(source.labels or ())) < 2:
        raise InputError(
            f"{source.name}: must hold 2 classes at least, got one: {(source.labels or ['?'])[0]!r}; add samples of others"
        )
    say("no --model: training a small residual network on the source")
    return trained(source.x, numbered(source, class_names(source)), classes, seed=seed)


def _split(target: Domain, share: float, seed: int) -> tuple[Domain, Domain | None]:
    """What is adapted to, and what judges: whether there are labels is looked at, not what they say."""
    import torch

    if target.labels is None:
        return target, None
    count = round(share * len(target.x))
    if count < 1:
        return target, target
    if len(target.x) - count < 2:
        raise InputError(
            f"{target.name}: must hold two samples besides those held out, got {len(target.x)} of which {count} only judge; "
            "give more, or lower --held-out"
        )
    order = torch.randperm(len(target.x), generator=torch.Generator().manual_seed(seed)).tolist()
    held, kept = sorted(order[:count]), sorted(order[count:])
    return replace(target, x=target.x[kept], labels=None), replace(
        target, x=target.x[held], labels=[target.labels[i] for i in held]
    )


def _judged(adaptation: Adaptation, tested: Domain, names: list[str]) -> Judgement:
    from residyn.transfer.judging import judge
    from residyn.transfer.reading import numbered

    return judge(adaptation, tested.x, numbered(tested, names))


def _watch() -> Watch | None:
    """Progress on a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None

    def tell(share: float, text: str) -> None:
        end = "\n" if share >= 1 else ""
        sys.stderr.write(f"\r{share:4.0%} {text[:90]:90s}{end}")
        sys.stderr.flush()

    return tell


def _save(adaptation: Adaptation, path: str, *, own: bool) -> None:
    from residyn.transfer.branchfile import save_adapted

    save_adapted(adaptation.model, path, whole=own)
    say(f"corrections written to {path}")


def _predict(adaptation: Adaptation, target: Domain, names: list[str], path: str) -> None:
    """The class of each sample of the target, and how sure the model is of it."""
    found = adaptation(target.x).softmax(1).max(1)
    lines = [
        f"{number},{_cell(names[int(c)] if int(c) < len(names) else str(int(c)))},{float(p):.4f}"
        for number, (p, c) in enumerate(zip(found.values, found.indices, strict=True), 1)
    ]
    report.put(path, "\n".join(["sample,class,confidence", *lines]) + "\n")
    say(f"{len(lines):,} predictions written to {path}")


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n\r') else text
