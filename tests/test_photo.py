"""Photos as real encoders write them: every format, depth, page and band of the table; and what is refused."""

import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from mask2former.errors import PhotoError
from mask2former.inference import photo
from mask2former.inference.photo import FORMATS, PhotoWarning, open_photo, read_photo
from mask2former.inference.photo_files import PhotoFiles

RAMP = np.linspace(0, 1, 64)[None, :, None] * np.ones((48, 1, 3))  # (H, W, 3): black at the left, white at the right
RGB = np.rint(RAMP * 255).astype(np.uint8)


def is_ramp(picture, tolerance=3):
    return picture.mode == "RGB" and np.abs(np.asarray(picture).astype(int) - RGB).max() <= tolerance


def write_png_16(path, values):
    """A PNG of 16 bits a colour, which Pillow does not write: (H, W, 3) of 0 … 65535."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("ending", sorted({ending for endings in FORMATS.values() for ending in endings}))
def test_every_format_of_the_table(ending, tmp_path):
    """Written by the library that reads it, except where Pillow only reads (PSD)."""
    file = tmp_path / f"ramp{ending}"
    name = next(name for name, endings in FORMATS.items() if ending in endings)
    picture = Image.fromarray(RGB)
    if name == "PSD":
        file.write_bytes(
            b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(12) + b"\0\0"
            + RGB.transpose(2, 0, 1).tobytes()
        )  # fmt: skip
    elif name == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(picture).save(file, quality=100)
    elif name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    elif ending == ".pfm":
        Image.fromarray(RAMP[..., 0].astype(np.float32)).save(file)
    elif ending in (".pgm", ".pbm"):
        picture.convert("L").save(file, format="PPM")
    elif name == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow does not write QOI")
    else:
        picture.save(file, format=name, **({"sizes": [(64, 48)]} if name == "ICO" else {}))
    read, notes = open_photo(file)
    assert not notes and is_ramp(read, tolerance=8)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_depth_of_a_16_bit_file(bits, tmp_path):
    """Grey and colour, PNG and TIFF, one plane a colour too: never black, and what was concluded is said."""
    tifffile = pytest.importorskip("tifffile")
    values = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", values[..., 0])
    write_png_16(tmp_path / "color.png", values)
    tifffile.imwrite(tmp_path / "color.tif", values, photometric="rgb")
    for compression in (None, "zlib"):
        planes = values.transpose(2, 0, 1)
        file = tmp_path / f"planes_{compression}.tif"
        tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", compression=compression)
    for file in tmp_path.iterdir():
        read, notes = open_photo(file)
        assert is_ramp(read), file.name
        assert notes == ([] if bits == 16 else [f"of 16 bits, with values up to {2**bits - 1}: read as {bits} bits"])


def test_a_deep_tiff_without_its_reader_is_refused(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "color.tif", np.rint(RAMP * 4095).astype(np.uint16), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(PhotoError, match=r"color\.tif is a TIFF of 16 bits a colour.*install tifffile"):
        read_photo(tmp_path / "color.tif")


def test_a_black_photo_is_black_and_floats_are_floats(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "black.png")
    read, notes = open_photo(tmp_path / "black.png")
    assert not notes and not np.asarray(read).any()
    Image.fromarray(RAMP[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    assert is_ramp(open_photo(tmp_path / "float.tif")[0])


def test_the_largest_page_of_a_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for name, marked in (("marked", 1), ("unmarked", 0)):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            writer.write(RGB[:6, :8], photometric="rgb", subfiletype=marked)
            writer.write(RGB, photometric="rgb")
        read, notes = open_photo(tmp_path / f"{name}.tif")
        assert is_ramp(read) and notes == ["page 2 of 2 is read, the largest"]
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([RGB, 255 - RGB, RGB]), photometric="rgb")
    read, notes = open_photo(tmp_path / "stack.tif")
    assert is_ramp(read) and notes == ["page 1 of 3 is read, the first so large"]


def test_bands(tmp_path):
    """Three of more are read where the file says that they are colours; else nobody can know which."""
    tifffile = pytest.importorskip("tifffile")
    five = np.concatenate([RGB, RGB[..., :2]], axis=2)
    tifffile.imwrite(tmp_path / "four.tif", five[..., :4], photometric="rgb", extrasamples=["unspecified"])
    read, notes = open_photo(tmp_path / "four.tif")
    assert is_ramp(read) and notes == ["the first three of 4 bands are read, as red, green and blue"]
    tifffile.imwrite(tmp_path / "five.tif", five.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate")
    with pytest.raises(PhotoError, match="five.tif is a TIFF of 5 bands of 8 bits, unsigned.*which are red"):
        read_photo(tmp_path / "five.tif")


def test_color_spaces(tmp_path):
    picture = Image.fromarray(RGB)
    for mode in ("CMYK", "YCbCr"):
        picture.convert(mode).save(tmp_path / f"{mode}.tif")
    picture.convert("CMYK").save(tmp_path / "CMYK.jpg", quality=100)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(picture, *profiles, outputMode="LAB").save(tmp_path / "LAB.tif")
    for file in tmp_path.iterdir():
        assert is_ramp(read_photo(file)), file.name


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_the_first_frame_of_an_animation_is_said(ending, tmp_path):
    file, other = tmp_path / f"two{ending}", Image.fromarray(RGB[:, ::-1])
    Image.fromarray(RGB).save(file, save_all=True, append_images=[other])
    read, notes = open_photo(file)
    assert is_ramp(read, 8) and notes == ["the first of 2 frames is read"]
    with pytest.warns(PhotoWarning, match="first of 2 frames"):
        read_photo(file)


def test_turned_deep_photos_are_turned(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.rint(RAMP * 4095).astype(np.uint16)
    tifffile.imwrite(tmp_path / "turned.tif", values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    read, _ = open_photo(tmp_path / "turned.tif")
    assert read.size == (48, 64) and is_ramp(read.transpose(Image.Transpose.ROTATE_90))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(64), "broken|HEIC photo: install pillow-heif"),
        ("a.mp4", b"\0\0\0\x18ftypisom", "a video: take its frames"),
        ("really_a_video.jpg", b"\0\0\0\x18ftypisom" + bytes(64), "a video: take its frames"),
        ("drawing.svg", b"<svg/>", "a drawing: render it first"),
        ("really_a_pdf.png", b"%PDF-1.7" + bytes(64), "a drawing: render it first"),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a drawing: render it first"),
        ("a.jxl", b"\xff\x0a" + bytes(64), "JPEG XL"),
        ("a.nef", b"II*\0" + bytes(64), "a camera's raw file: develop it"),
        ("broken.tif", b"II*\0\x08\0\0\0" + bytes(4), "a broken TIFF|broken"),
        ("text.jpg", b"hello", "not a picture, whatever its name says"),
    ],
)
def test_what_is_not_read_says_what_it_is(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhotoError, match=said) as error:
        read_photo(tmp_path / name)
    assert name in str(error.value)


def test_a_raw_file_under_another_name_is_no_thumbnail(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    version = (50706, "B", 4, b"\1\4\0\0", True)
    tifffile.imwrite(tmp_path / "photo.tif", RGB[:6, :8], photometric="rgb", extratags=[version])
    with pytest.raises(PhotoError, match="raw file"):
        read_photo(tmp_path / "photo.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="no regular file"):
        read_photo(tmp_path / "pipe.jpg")


def test_a_folder_tells_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("mask2former.inference.photo_files.reads_heif", lambda: False)
    names = ["b.JPG", "a.png", "IMG_1.HEIC", "IMG_2.heic", "clip.mov", "d.nef", "notes.txt", "._b.JPG", ".DS_Store"]
    names += ["e.avif", "f.jp2", "g.gif"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/h.png").touch()
    found = PhotoFiles.of(tmp_path)
    assert [file.name for file in found.photos] == ["a.png", "b.JPG", "e.avif", "f.jp2", "g.gif"]
    assert list(found.said()) == [
        "left out: 2 photos, IMG_1.HEIC the first: HEIF: install pillow-heif to read it",
        "left out: clip.mov: a video: take its frames",
        "left out: d.nef: a camera's raw file: develop it to JPEG, PNG or TIFF first",
        "no photos: 2 hidden, 1 .txt",
    ]
    assert len(found.photos) + len(found.unreadable) + len(found.others) == len(names)
    assert (tmp_path / "sub/h.png") in PhotoFiles.of(tmp_path, recursive=True).photos


def test_good_photos_warn_of_nothing(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_photo(tmp_path / "a.png")
    assert photo.name_of(tmp_path / "a.png") == str(tmp_path / "a.png")
