"""Reading pictures and masks: every depth and mode, and every rule by its words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residyn.errors import InputError
from residyn.nets.segmentation import read_labelled, read_mask, read_picture

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return str(path)


def test_depths_and_modes(tmp_path):
    eight = torch.from_numpy(GREY.astype(np.float32) / 255)[None]
    torch.testing.assert_close(read_picture(saved(tmp_path / "a.png", GREY)), eight)
    wide = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    torch.testing.assert_close(read_picture(saved(tmp_path / "b.png", wide)), eight)
    torch.testing.assert_close(read_picture(saved(tmp_path / "c.tif", wide)), eight)
    floats = (GREY / 255).astype(np.float32)
    torch.testing.assert_close(read_picture(saved(tmp_path / "d.tif", floats)), eight)
    np.save(tmp_path / "e.npy", GREY)
    torch.testing.assert_close(read_picture(tmp_path / "e.npy"), eight)
    colour = np.stack([GREY, GREY // 2, 255 - GREY, np.full_like(GREY, 7)], 2)
    rgba = read_picture(saved(tmp_path / "f.png", colour))
    assert rgba.shape == (3, 6, 8)
    torch.testing.assert_close(rgba[0], eight[0])
    assert read_picture(tmp_path / "f.png", 1).shape == (1, 6, 8)
    assert read_picture(tmp_path / "a.png", 3).shape == (3, 6, 8)
    palette = Image.fromarray(colour[..., :3]).quantize(8)
    palette.save(tmp_path / "g.png")
    assert read_picture(tmp_path / "g.png").shape == (3, 6, 8)
    assert torch.equal(read_mask(tmp_path / "g.png"), torch.from_numpy(np.array(palette).astype(np.int64)))


def folder(tmp_path, masks):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k, mask in enumerate(masks):
        saved(tmp_path / "images" / f"p{k}.png", GREY)
        saved(tmp_path / "masks" / f"p{k}.tif", mask)
    return str(tmp_path / "images"), str(tmp_path / "masks")


def test_gaps_in_class_values_are_closed(tmp_path):
    one, two = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    one[2:], two[3:], two[0] = 200, 7, 255
    data = read_labelled(*folder(tmp_path, [one, two]), ignore=255)
    assert data.values == [0, 7, 200]
    assert torch.unique(data.masks[0]).tolist() == [0, 2]
    assert torch.unique(data.masks[1]).tolist() == [-1, 0, 1]
    assert data.names == ["p0.png", "p1.png"]


def test_grey_and_colour_together_become_colour(tmp_path):
    images, masks = folder(tmp_path, [GREY % 2, GREY % 2])
    saved(tmp_path / "images" / "p1.png", np.stack([GREY] * 3, 2))
    assert [len(p) for p in read_labelled(images, masks).pictures] == [3, 3]


def bomb(tmp_path):
    """A valid header that asks for 10 gigapixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = lambda tag, data: struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))  # noqa: E731
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes(Path(saved(tmp_path / "whole.png", np.tile(GREY, (20, 20)))).read_bytes()[:100])
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    np.save(tmp_path / "deep.npy", np.zeros((4, 4, 4, 4)))
    for name, words in {
        "a.png": "must be a picture that can be read",
        "cut.png": "must be a picture that can be read",
        "p.npy": "must be an .npy file of plain numbers",
        "none.png": "must be a file that exists",
        "nan.npy": "must hold finite pixels",
        "deep.npy": "must be a grey or colour picture",
    }.items():
        with pytest.raises(InputError, match=words):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="at most|can be read"):
        read_picture(bomb(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, m: (m / "p1.tif").unlink(), "must have a mask for each picture, by name, got none for 'p1.png'"),
        (
            lambda i, m: saved(m / "p1.tif", GREY[:4]),
            r"must have the size of their pictures, \(6, 8\) for 'p1.png', got \(4, 8\)",
        ),
        (
            lambda i, m: saved(m / "p1.tif", np.stack([GREY, GREY * 2, GREY], 2)),
            "must have one class number a pixel, got colours",
        ),
        (lambda i, m: saved(m / "p1.tif", (GREY / 7).astype(np.float32)), "must hold whole numbers"),
        (
            lambda i, m: [saved(m / f"p{k}.tif", GREY * 0) for k in (0, 1)],
            r"must hold at least 2 classes, got the values \[0\]",
        ),
        (lambda i, m: [f.unlink() for f in i.iterdir()], "must hold pictures"),
    ],
)
def test_masks_that_do_not_go_with_their_pictures(tmp_path, change, words):
    images, masks = folder(tmp_path, [GREY % 2, GREY % 2])
    change(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(InputError, match=words):
        read_labelled(images, masks)


def test_a_folder_that_is_not_there():
    with pytest.raises(InputError, match="must be a picture or a folder of pictures, got 'nowhere'"):
        read_labelled("nowhere", "nowhere")
