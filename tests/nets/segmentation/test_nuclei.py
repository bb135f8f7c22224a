"""Nuclei under the microscope with masks drawn by hand: the picture that the package stardist bundles, 512×512 in 16 bits."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residyn.nets.segmentation import Settings, read_labelled, read_mask, read_picture, train
from residyn.training import Plan


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    # importing stardist would ask for tensorflow; its data do not
    spec = importlib.util.find_spec("stardist")
    if spec is None or spec.origin is None:
        pytest.skip("stardist is not installed")
    folder, home = Path(spec.origin).parent / "data" / "images", tmp_path_factory.mktemp("nuclei")
    cells = read_mask(folder / "mask2d.tif")  # a number a nucleus
    Image.fromarray((cells.numpy() > 0).astype(np.uint8) * 255).save(home / "mask.png")
    return folder / "img2d.tif", home / "mask.png", cells


def test_sixteen_bits_are_read_as_they_are(nuclei):
    picture = read_picture(nuclei[0])
    with Image.open(nuclei[0]) as file:
        raw = np.array(file)
    assert raw.dtype == np.uint16
    # single precision of n/65535: half a unit of 2^-24 relative
    np.testing.assert_allclose(picture[0].numpy(), raw / 65535, rtol=1e-7)
    assert nuclei[2].shape == raw.shape


@pytest.mark.slow
def test_nuclei_are_found_on_the_part_that_was_held_out(nuclei):
    data = read_labelled(str(nuclei[0]), str(nuclei[1]))
    plan = Plan(epochs=6, batch=8, rate=5e-3, warmup=0.05, clip=1.0)
    segmenter, judged, _ = train(data, Settings(crop=96, crops=40, width=8, levels=3), plan)
    assert segmenter.values == [0, 255]
    # calling every pixel a nucleus, a fifth of them, has Dice 2·0.2/1.2 = 1/3; Otsu's threshold, 0.83, takes longer to beat
    assert judged.dice[1] > 0.7
    assert set(torch.unique(segmenter(data.pictures[0])).tolist()) == {0, 255}
