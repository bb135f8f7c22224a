"""Pictures from and to files: every form against another program's reader, bit for bit; what is broken is refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from residyn.errors import InputError, ResidynError
from residyn.inverse import files

pytest.importorskip("PIL")
pytest.importorskip("tifffile")


def pixels(dtype, channels=1, height=21, width=34, seed=0):
    generator = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if np.dtype(dtype).kind == "f":
        return generator.normal(size=shape).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def round_trip(tmp_path, array, name, alpha=None):
    path = tmp_path / name
    files.write(array, files.Photo(array, alpha), path)
    return files.read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_integers_come_back_bit_for_bit(tmp_path, dtype, channels, alpha, ending):
    array, beside = pixels(dtype, channels), pixels(dtype, seed=1) if alpha else None
    back = round_trip(tmp_path, array, f"x{ending}", beside)
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, array)
    assert (back.alpha is None) == (beside is None)
    if alpha:
        np.testing.assert_array_equal(back.alpha, beside)


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1)])
def test_our_png_is_read_by_pillow(tmp_path, dtype, channels):
    from PIL import Image

    array = pixels(dtype, channels, 300, 70)  # more than one block of rows
    files.write(array, files.Photo(array), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.parametrize("filter", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("colour, channels", [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_sixteen_bits_of_every_row_filter(tmp_path, filter, colour, channels):
    """PNG files written out here with one filter throughout, and read with all their bits."""
    array = pixels(np.uint16, 1, 7, 5 * channels).reshape(7, 5, channels)
    raw = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(7, -1).astype(int)
    bpp, lines, above = 2 * channels, b"", np.zeros(raw.shape[1], int)
    for row in raw:
        left = np.concatenate([np.zeros(bpp, int), row[:-bpp]])
        corner = np.concatenate([np.zeros(bpp, int), above[:-bpp]])
        p = left + above - corner
        paeth = [min((abs(q - a), i, a) for i, a in enumerate(s))[2] for q, *s in zip(p, left, above, corner, strict=True)]
        guess = [0, left, above, (left + above) // 2, np.array(paeth)][filter]
        lines += bytes([filter]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 7, 16, colour, 0, 0, 0)), (b"IDAT", zlib.compress(lines)), (b"IEND", b""),
    ]  # fmt: skip
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )
    (tmp_path / "x.png").write_bytes(content)
    photo = files.read(tmp_path / "x.png")
    colours = array[..., : {2: 3, 6: 3, 4: 1, 0: 1}[colour]]
    np.testing.assert_array_equal(photo.pixels, colours[..., 0] if colours.shape[2] == 1 else colours)
    if colour in (4, 6):
        np.testing.assert_array_equal(photo.alpha, array[..., -1])


def test_png_chunks_go_along(tmp_path):
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    about.add_text("Author", "A. N. Other")
    exif = Image.Exif()
    exif[0x0110] = "Camera 9"
    Image.fromarray(pixels(np.uint8, 3)).save(
        tmp_path / "a.png", pnginfo=about, dpi=(300, 300), exif=exif, icc_profile=b"profile" * 9
    )
    photo = files.read(tmp_path / "a.png")
    files.write(photo.pixels, photo, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["Author"] == "A. N. Other"
        assert image.getexif()[0x0110] == "Camera 9"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert image.info["icc_profile"] == b"profile" * 9


def test_jpeg_keeps_tables_and_metadata(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Camera 9"
    smooth = np.add.outer(np.arange(64), np.arange(48))[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(smooth).save(
        tmp_path / "a.jpg", quality=71, subsampling=2, dpi=(72, 72), exif=exif, icc_profile=b"profile", comment=b"hello"
    )
    photo = files.read(tmp_path / "a.jpg")
    files.write(photo.pixels, photo, tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as a, Image.open(tmp_path / "b.jpg") as b:
        assert a.quantization == b.quantization
        assert dict(a.getexif()) == dict(b.getexif())
        assert b.info["icc_profile"] == b"profile"
        assert b.info["comment"] == b"hello"
        assert b.info["dpi"] == (72, 72)
    # and to another form, with what that can hold
    files.write(photo.pixels, photo, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.getexif()[0x0110] == "Camera 9"
        assert image.info["icc_profile"] == b"profile"
        assert image.info["dpi"] == pytest.approx((72, 72), abs=0.02)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.tif", "b.npy"])
def test_pictures_stand_upright(tmp_path, turn, source, target):
    # what Pillow shows of the file is what is worked on, and what it shows of the outcome
    from PIL import Image, ImageOps

    smooth = np.add.outer(3 * np.arange(40), np.arange(56))[..., None] * np.array([1, 0.5, 1]) + np.array([0, 60, 9])
    exif = Image.Exif()
    exif[0x0112] = turn
    how = {"quality": 100, "subsampling": 0} if source == "a.jpg" else {}
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / source, exif=exif, **how)
    photo = files.read(tmp_path / source)
    with Image.open(tmp_path / source) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(photo.pixels, seen)
    files.write(photo.pixels, photo, tmp_path / target)
    again = files.read(tmp_path / target).pixels
    assert again.shape == seen.shape
    # JPEG rounds the coefficients of a smooth ramp to 1: some levels a pixel
    np.testing.assert_allclose(again.astype(int), seen.astype(int), atol=4 if target == "b.jpg" else 0)
    if target != "b.npy":
        with Image.open(tmp_path / target) as image:
            np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), again)


def test_a_broken_exif_block_is_no_broken_picture(tmp_path):
    from PIL import Image

    array = pixels(np.uint8, 3)
    Image.fromarray(array).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9))
    np.testing.assert_array_equal(files.read(tmp_path / "a.png").pixels, array)
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert files.read(tmp_path / "a.jpg").pixels.shape == array.shape


def test_alpha_turns_with_its_picture(tmp_path):
    from PIL import Image, ImageOps

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(np.uint8, 4)).save(tmp_path / "a.png", exif=exif)
    photo = files.read(tmp_path / "a.png")
    files.write(photo.pixels, photo, tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        np.testing.assert_array_equal(np.dstack([photo.pixels, photo.alpha]), np.asarray(ImageOps.exif_transpose(a)))


@pytest.mark.parametrize("source", ["a.jpg", "a.tif"])
@pytest.mark.parametrize("target", ["b.jpg", "b.tif"])
def test_inks_stay_inks(tmp_path, source, target):
    from PIL import Image

    ramp = np.add.outer(np.arange(64), np.arange(48))
    inks = np.stack([ramp, 255 - ramp, ramp // 2, 0 * ramp + 40], -1).astype(np.uint8)
    how = {"quality": 100, "subsampling": 0} if source == "a.jpg" else {}
    Image.frombytes("CMYK", (48, 64), inks.tobytes()).save(tmp_path / source, **how)
    photo = files.read(tmp_path / source)
    assert photo.inks
    files.write(photo.pixels, photo, tmp_path / target)
    with Image.open(tmp_path / target) as image:
        assert (image.mode, image.size, getattr(image, "n_frames", 1)) == ("CMYK", (48, 64), 1)
        # a smooth ramp at the best quality: coefficients are rounded to 1, some levels a pixel in two passes
        np.testing.assert_allclose(np.asarray(image).astype(int), inks.astype(int), atol=4)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_no_name_are_one_page(tmp_path, channels):
    array = pixels(np.uint16, channels)
    np.testing.assert_array_equal(round_trip(tmp_path, array, "a.tif").pixels, array)


def test_alpha_that_is_multiplied_in_stays_so(tmp_path):
    import tifffile

    array = pixels(np.uint8, 4)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["assocalpha"])
    photo = files.read(tmp_path / "a.tif")
    files.write(photo.pixels, photo, tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert [sample.name for sample in file.pages[0].extrasamples] == ["ASSOCALPHA"]
        np.testing.assert_array_equal(file.asarray(), array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.uint16])
def test_tiff_tags_and_volumes(tmp_path, dtype):
    import tifffile

    volume = pixels(dtype, 1, 12, 10)[None].repeat(6, 0)
    tifffile.imwrite(
        tmp_path / "a.tif", volume, photometric="minisblack", description="cells", resolution=(400, 300), resolutionunit="INCH",
        compression="zlib", metadata=None, extratags=[(270 + 45, 2, 0, "A. N. Other", True)],
    )  # fmt: skip
    photo = files.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, volume)
    files.write(photo.pixels, photo, tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        np.testing.assert_array_equal(file.asarray(), volume)
        tags = file.pages[0].tags
        assert tags["ImageDescription"].value == "cells"
        assert tags["Artist"].value == "A. N. Other"
        assert tags["XResolution"].value[0] / tags["XResolution"].value[1] == 400
        assert file.pages[0].compression.name == "ADOBE_DEFLATE"


def test_compressions_that_need_another_package_are_read_by_pillow(tmp_path):
    from PIL import Image

    array = pixels(np.uint8, 3)
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif").pixels, array)


def test_palettes_become_colours_and_it_is_said(tmp_path):
    from PIL import Image

    image = Image.fromarray(pixels(np.uint8) % 4).convert("P")
    image.save(tmp_path / "a.png")
    photo = files.read(tmp_path / "a.png")
    assert photo.pixels.shape == (21, 34, 3)
    assert photo.notes == ("a palette becomes RGB of 8 bits a channel",)


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32, np.float64, ">f8"])
def test_arrays(tmp_path, dtype):
    array = pixels(np.dtype(dtype).newbyteorder("="), 3).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    photo = files.read(tmp_path / "a.npy")
    np.testing.assert_array_equal(photo.pixels, array)
    files.write(photo.pixels, photo, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), array)


def png(array=None):
    page = io.BytesIO()
    from PIL import Image

    Image.fromarray(pixels(np.uint8) if array is None else array).save(page, "PNG")
    return page.getvalue()


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


def saved(array, **kwargs):
    page = io.BytesIO()
    np.save(page, array, **kwargs)
    return page.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "PNG, JPEG, TIFF or NumPy .* got an empty file"),
        (b"hello world", "got a file that begins with b'hell'"),
        (b"GIF89a" + bytes(20), "got a GIF; convert it"),
        (b"%PDF-1.7", "got a PDF"),
        (b"\x80\x04\x95", "got a Python pickle"),
        (b"PK\x03\x04", "got a zip archive"),
        (lambda: png()[:200], "is broken and cannot be read"),
        (lambda: png()[:60] + b"\xff" * 40 + png()[100:], "is broken and cannot be read"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "is broken and cannot be read"),
        (b"II*\x00" + bytes(50), "is broken and cannot be read"),
        (lambda: saved(np.zeros((64, 64)))[:5000], "is broken and cannot be read"),
        (lambda: saved(np.array([Evil()], object), allow_pickle=True), "must hold real intensities, got an array of object"),
        (lambda: saved(np.zeros((8, 8), complex)), "must hold real intensities, got an array of complex128"),
        (lambda: saved(np.arange(5.0)), r"must be a picture \(H, W\), a volume .* got \(5,\)"),
        (lambda: saved(np.float64(3)), r"must be a picture \(H, W\), .* got \(\)"),
        (lambda: saved(np.zeros((0, 8))), r"must hold real intensities, got float64 \(0, 8\)"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content, words):
    path = tmp_path / "x.png"
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(InputError, match=words):
        files.read(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        files.read(tmp_path / "none.png")
    with pytest.raises(InputError, match="must be a file, got a folder; name the pictures in it"):
        files.read(tmp_path)


def bomb(kind, side):
    """A file whose header claims a picture of this side."""
    if kind == "png":
        head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + png()[33:]
    page = io.BytesIO()
    np.lib.format.write_array_header_1_0(page, {"descr": "<f8", "fortran_order": False, "shape": (side, side)})
    return page.getvalue()


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_huge_pictures_need_to_be_asked_for(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(bomb(kind, 30000))
    with pytest.raises(
        InputError, match="at most 64,000,000 pixels, got 30000 × 30000 = 900,000,000; .* pass --max-pixels 900000000"
    ):
        files.read(path)
    path.write_bytes(png())
    with pytest.raises(InputError, match="must have at most 100 pixels, got 21 × 34 = 714"):
        files.read(path, max_pixels=100)
    assert files.read(path, max_pixels=714).pixels.shape == (21, 34)


def test_animations_and_unlike_pages_are_refused(tmp_path):
    import tifffile
    from PIL import Image

    frames = [Image.fromarray(pixels(np.uint8, seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="must be one picture, got an animation of 2"):
        files.read(tmp_path / "a.png")
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(pixels(np.uint8), metadata=None)
        out.write(pixels(np.uint8, 1, 9, 9), metadata=None)
    with pytest.raises(InputError, match="one picture or one stack, got 2 of unlike size"):
        files.read(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "p.tif", pixels(np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(InputError, match="got numbers of a palette"):
        files.read(tmp_path / "p.tif")


@pytest.mark.parametrize(
    "name, array, alpha, words",
    [
        ("x.jpg", pixels(np.uint16), None, "must not be a JPEG for a picture with uint16"),
        ("x.jpg", pixels(np.uint8), pixels(np.uint8), "must not be a JPEG for a picture with alpha"),
        ("x.png", pixels(np.float32), None, "must not be a PNG for float32: .* take .tif or .npy"),
        ("x.jpg", pixels(np.uint8, 4), None, r"must not be a JPEG for a picture with uint8 and 4 channels"),
        ("x.jpg", pixels(np.uint8, 2), None, r"must not be a JPEG for a picture with uint8 and 2 channels"),
        ("x.png", pixels(np.uint8, 4), None, r"must not be a PNG for uint8 and 4 channels"),
        ("x.gif", pixels(np.uint8), None, "`-o` must end in one of .png"),
        ("none/x.png", pixels(np.uint8), None, "must be in a folder that exists"),
    ],
)
def test_forms_that_cannot_hold_it_are_refused(tmp_path, name, array, alpha, words):
    with pytest.raises(InputError, match=words):
        files.write(array, files.Photo(array, alpha), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_targets_are_not_overwritten_and_never_half_there(tmp_path, monkeypatch):
    array = pixels(np.uint8)
    path = tmp_path / "x.png"
    path.write_text("mine")
    with pytest.raises(InputError, match="must not exist already, .* pass --force"):
        files.write(array, files.Photo(array), path)
    (tmp_path / "d.png").mkdir()
    with pytest.raises(InputError, match="must be a file, got the folder"):
        files.check_target(tmp_path / "d.png", force=True)

    def fails(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ResidynError, match="could not be written: No space left on device; nothing was changed"):
        files.write(array, files.Photo(array), path, force=True)
    assert path.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png", "x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="must be in a folder you may write to"):
        files.check_target(tmp_path / "x.png")


def test_kernels_from_files(tmp_path):
    (tmp_path / "k.csv").write_text("# a line\n1, 2 ,1\n2;4;2\n1 2 1\n")
    np.testing.assert_array_equal(files.read_psf(tmp_path / "k.csv"), [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    array = pixels(np.uint16, 1, 5, 5)
    files.write(array, files.Photo(array), tmp_path / "k.png")
    np.testing.assert_array_equal(files.read_psf(tmp_path / "k.png"), array)
    files.write(array[..., None].repeat(3, 2), files.Photo(array), tmp_path / "grey.png")
    np.testing.assert_array_equal(files.read_psf(tmp_path / "grey.png"), array)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("k.csv", b"1,2\n3", "must be a table with rows of one length, got .* with 2 rows"),
        ("k.txt", b"", "must be a table with rows of one length"),
        ("k.txt", b"one two", "must be a table of numbers, got .* 'one'"),
        ("k.csv", b"\xff\xfe\x00", "cannot be read from"),
        ("k.npy", saved(np.ones(5)), r"must have two axes, or three for a volume, got \(5,\)"),
        ("k.png", png(pixels(np.uint8, 3)), "must be grey, got a picture with colours"),
    ],
)
def test_kernels_that_are_none(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        files.read_psf(tmp_path / name)
