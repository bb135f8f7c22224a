"""The verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from residyn import __version__
from residyn.cli import (
    adapt,
    atlas,
    audit,
    bench,
    calibrate,
    deblur,
    denoise,
    disulfide,
    doctor,
    dynamics,
    example,
    explain,
    graph,
    listing,
    segment,
    spectrum,
)
from residyn.cli.options import Debug, examples
from residyn.cli.output import emit

app = typer.Typer(
    name="residyn",
    help="Residual steps x⁺ = x + h·F(x): systems that are one step under many names, run on real data beside theory.",
    epilog=examples("residyn atlas -o atlas.html", "residyn explain wiener"),
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        emit(f"residyn {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    if context.invoked_subcommand is None:
        emit(context.get_help())


app.command(
    "adapt",
    epilog=examples(
        "residyn adapt clinic_a.csv clinic_b.csv -o report.html --predictions classes.csv",
        "residyn adapt photos/ sketches/ --model mynets:resnet --weights resnet.safetensors --branch sketches.safetensors",
    ),
)(adapt.adapt)
app.command("atlas", epilog=examples("residyn atlas -o atlas.html", "residyn atlas wiener ode --fast --seed 3"))(atlas.atlas)
app.command(
    "audit",
    epilog=examples("residyn audit mynets:resnet batch.npz -o audit.html", "residyn audit hf:minilm --budget 30 -o audit.html"),
)(audit.audit)
app.add_typer(dynamics.app, name="dynamics")
app.command(
    "calibrate",
    epilog=examples("residyn calibrate logits.npz -o report.html", "residyn calibrate held_out.csv --test test.csv --json"),
)(calibrate.calibrate)
app.command(
    "deblur",
    epilog=examples(
        "residyn deblur photo.png --psf gaussian:2",
        "residyn deblur *.tif --psf psf.npy --method tv -o restored --report page.html",
    ),
)(deblur.deblur)
app.command(
    "denoise",
    epilog=examples("residyn denoise photo.jpg -o clean.jpg", "residyn denoise *.png --method unrolled -o clean --jobs -1"),
)(denoise.denoise)
app.command(
    "disulfide",
    epilog=examples("residyn disulfide protein.pdb -o table.html", "residyn disulfide *.cif.gz --rigid --jobs -1 -o table.csv"),
)(disulfide.disulfide)
app.command(
    "spectrum",
    epilog=examples(
        "residyn spectrum water.xyz --basis 6-31g --xc pbe0 -o spectrum.html",
        "residyn spectrum *.xyz --xc hf --checkpoint runs --jobs -1 -o lines.csv",
    ),
)(spectrum.spectrum)
app.add_typer(segment.app, name="segment")
app.command(
    "graph",
    epilog=examples("residyn graph friends.txt -o report.html", "residyn graph cites.npz --labels topics.csv --json"),
)(graph.graph)
app.command("list", epilog=examples("residyn list", "residyn list --json"))(listing.list_entries)
app.command("explain", epilog=examples("residyn explain wiener", "residyn explain depth --json"))(explain.explain)
app.command("example", epilog=examples("residyn example", "residyn example dynamics -o tryout"))(example.example)
app.command("doctor", epilog=examples("residyn doctor", "residyn doctor --json"))(doctor.doctor)
app.command("bench", epilog=examples("residyn bench", "residyn bench solvers stiff -o mine.md"))(bench.bench)
