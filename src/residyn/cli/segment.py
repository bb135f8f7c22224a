"""`residyn segment`: train a U-Net on pictures with masks, and segment others with it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from residyn import provenance, report
from residyn.cli import batch
from residyn.cli.options import Debug, Json, Seed, command, examples
from residyn.cli.output import Stopped, deliver, leave, say
from residyn.errors import InputError
from residyn.results import Result, Section

app = typer.Typer(help="Segment pictures with a U-Net.", no_args_is_help=True)


def train(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Folder of pictures, or one picture.")],
    masks: Annotated[str, typer.Argument(metavar="MASKS", help="Folder of masks with the same names, or one mask.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE.safetensors", help="Where the model goes.")
    ] = "model.safetensors",
    page: Annotated[str | None, typer.Option("--report", metavar="FILE", help="Write a report: .html .json .csv .txt")] = None,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", help="Passes over the crops.")] = 20,
    crops: Annotated[int, typer.Option("--crops", metavar="N", help="Random crops an epoch.")] = 160,
    crop: Annotated[int, typer.Option("--crop", metavar="PIXELS", help="Side of a crop.")] = 128,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Channels at the finest level.")] = 16,
    levels: Annotated[int, typer.Option("--levels", metavar="N", help="Resolutions of the network.")] = 4,
    rate: Annotated[float, typer.Option("--rate", metavar="R", help="Peak learning rate.")] = 2e-3,
    held_out: Annotated[float, typer.Option("--held-out", metavar="SHARE", help="Share of pictures to judge by.")] = 0.2,
    ignore: Annotated[int | None, typer.Option("--ignore", metavar="VALUE", help="Mask value that counts nowhere.")] = None,
    short: Annotated[bool, typer.Option("--short/--no-short", help="Identity paths within blocks.")] = True,
    long: Annotated[bool, typer.Option("--long/--no-long", help="Skips from encoder to decoder.")] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where that is safe.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on pictures with masks; a run that was stopped goes on when the same command is given again."""
    from residyn.nets.segmentation import Settings, read_labelled
    from residyn.nets.segmentation import train as fit
    from residyn.nets.segmentation.assessment import trained
    from residyn.training import Line, Plan
    from residyn.training.storage import check_weights

    began, started = time.perf_counter(), provenance.now()
    target = check_weights(output)
    if target.exists() and not force:
        raise InputError(f"`-o` must be a file that is not there yet, got {output!r}; --force replaces it")
    if page is not None:
        report.check(page)
    settings = Settings(crop=crop, crops=crops, held_out=held_out, width=width, levels=levels, short=short, long=long)
    plan = Plan(
        epochs=epochs, batch=8, rate=rate, decay=1e-4, warmup=0.05, clip=1.0, seed=seed, precision="bf16" if bf16 else "float32"
    )
    data = read_labelled(images, masks, ignore=ignore)
    keep = target.with_name(f"{target.stem}.run.safetensors")
    if keep.exists():
        say(f"going on from {keep.name}; delete it to start anew")
    progress = None if sys.stderr is None else Line("segment")
    try:
        segmenter, judged, history = fit(data, settings, plan, checkpoint=keep, progress=progress)
    except KeyboardInterrupt:
        if keep.exists():
            raise Stopped(f"interrupted; the run is kept in {keep}; the same command goes on from there") from None
        raise
    segmenter.save(target, {"settings": asdict(settings), "plan": asdict(plan), "dice": judged.dice})
    keep.unlink(missing_ok=True)
    section = trained(data, segmenter, judged, history, settings, seed, name=Path(images).name)
    options = {"-o": output, "epochs": epochs, "crops": crops, "crop": crop, "width": width, "levels": levels, "rate": rate}
    options |= {"held-out": held_out, "ignore": ignore, "no-short": not short, "no-long": not long, "bf16": bf16, "seed": seed}
    line = command("segment train", [images, masks], options)
    result = _deliver([section], section.title, line, seed, began, started, page, as_json=as_json)
    say(f"model written to {output}")
    leave(result)


def predict(
    files: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Pictures, or folders of them.")],
    model: Annotated[str, typer.Option("--model", metavar="FILE.safetensors", help="What `segment train` wrote.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FOLDER", help="Where the masks go, as PNG.")] = "masks",
    page: Annotated[str | None, typer.Option("--report", metavar="FILE", help="Write a report: .html .json .csv .txt")] = None,
    masks: Annotated[str | None, typer.Option("--masks", metavar="FOLDER", help="True masks, to score against.")] = None,
    window: Annotated[int, typer.Option("--window", metavar="PIXELS", help="Windows that large pictures are cut into.")] = 512,
    force: Annotated[bool, typer.Option("--force", help="Replace masks that are there.")] = False,
    jobs: batch.Jobs = 1,
    backend: batch.Backend = "loky",
    scheduler: batch.Scheduler = None,
    resume: batch.Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a mask for each picture, with the values of the training's masks."""
    from residyn.nets.segmentation import Segmenter
    from residyn.nets.segmentation.assessment import predicted
    from residyn.nets.segmentation.pictures import picture_files

    plan = batch.Plan(jobs, backend, scheduler, resume)
    if page is not None:
        report.check(page)
    if window < 16:
        raise InputError(f"`--window` must be at least 16 pixels, got {window}; larger windows see more around each pixel")
    if masks is not None and not Path(masks).exists():
        raise InputError(f"`--masks` must be a folder of masks, or one mask, got {masks!r}: nothing there; check the path")
    began, started = time.perf_counter(), provenance.now()
    Segmenter.load(model)  # a model that cannot be read is an error of the command, not of each picture
    names = [str(path) for file in files for path in picture_files(file)]
    targets = {name: Path(output, f"{Path(name).stem}.png") for name in names}
    _free(targets, force=force or resume)
    Path(output).mkdir(parents=True, exist_ok=True)
    work = partial(predicted, model=model, folder=output, masks=masks, window=window)
    stamps = [batch.stamp(model), batch.stamp(masks)]
    conditions = {"model": model, "masks": masks, "stamps": stamps, "window": window, "versions": provenance.versions()}
    sections = batch.run(names, work, plan, output=page, conditions=conditions, title=_title)
    line = command("segment predict", files, {"model": model, "-o": output, "masks": masks, "window": window})
    title = sections[0].title if len(sections) == 1 else f"Segmentation of {len(sections)} pictures"
    _deliver(sections, title, line, None, began, started, page, as_json=as_json)
    say(f"{sum(not s.error for s in sections)} masks written to {output}")
    if any(s.error for s in sections):
        raise typer.Exit(1)


def _title(file: str) -> str:
    return f"Mask of {Path(file).name}"


def _free(targets: dict[str, Path], *, force: bool) -> None:
    """Refuse to write over masks that are there, or two masks to one name."""
    names = list(targets.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"`IMAGE` must have names that differ, got two for {twice.name!r}; run them one after the other")
    there = [name for name in names if name.exists()]
    if there and not force:
        raise InputError(f"`-o` must hold no mask of these names, got {str(there[0])!r}; --force replaces it")


def _deliver(
    sections: list[Section],
    title: str,
    command: str,
    seed: int | None,
    began: float,
    started: str,
    page: str | None,
    *,
    as_json: bool,
) -> Result:
    seconds = time.perf_counter() - began
    if len(sections) == 1:
        sections = [replace(sections[0], seconds=seconds)]
    result = Result("segment", title, sections, command, seed, provenance.versions("pillow"), started, seconds)
    deliver(result, page, as_json=as_json)
    return result


app.command(
    "train",
    epilog=examples(
        "residyn segment train images/ masks/ -o model.safetensors --report training.html",
        "residyn segment train scan.tif labels.tif --crop 96 --epochs 40 --ignore 255",
    ),
)(train)
app.command(
    "predict",
    epilog=examples(
        "residyn segment predict new.png --model model.safetensors",
        "residyn segment predict images/ --model model.safetensors -o masks/ --masks truth/ --jobs -1",
    ),
)(predict)
