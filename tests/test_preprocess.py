"""Photos of every kind, sizes as the papers' code has them, and errors that name the file."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.errors import PhotoError
from mask2former.inference.photo import read_photo
from mask2former.inference.preprocess import Preprocess, shortest_edge_size
from mask2former.structures import Protocol

RED = (200, 40, 10)


def half_red(mode="RGB", size=(6, 4)):
    """Left half red, right half white."""
    picture = Image.new("RGB", size, "white")
    picture.paste(RED, (0, 0, size[0] // 2, size[1]))
    return picture.quantize() if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize(
    ("photo", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((640, 360), 800, 1333, (1333, 750)),  # the long side decides
        ((1024, 2048), 1024, 2048, (1024, 2048)),
        ((512, 683), 640, 2560, (640, 854)),
        ((500, 500), 800, 1333, (800, 800)),
        ((1, 5000), 800, 1333, (1, 1333)),  # 0.27 pixels are still one
        ((5000, 1), 800, 1333, (1333, 1)),
        ((1, 1), 800, 1333, (800, 800)),
        ((1000, 10551), 10, 200, (10, 106)),  # 105.51
        ((10551, 1000), 10, 200, (106, 10)),
        ((1000, 10549), 10, 200, (10, 105)),  # 105.49
        ((10549, 1000), 10, 200, (105, 10)),
    ],
)
def test_sizes_are_the_papers(photo, short, long, expected):
    assert shortest_edge_size(photo, short, long) == expected


def test_what_becomes_of_a_photo():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8))
    preprocess = Preprocess(50, 90)
    values, sizes = preprocess(photo)
    assert (sizes.photo, sizes.resized, sizes.padded) == ((75, 100), (50, 67), (64, 96))
    assert values.shape == (3, 64, 96) and values.dtype == torch.float32
    small = torch.from_numpy(np.array(photo.resize((67, 50), Image.Resampling.BILINEAR))).double()
    expected = (small - torch.tensor(Protocol.pixel_mean)) / torch.tensor(Protocol.pixel_std)
    assert (values[:, :50, :67].permute(1, 2, 0) - expected).abs().max() < 1e-6
    assert not values[:, 50:].any() and not values[:, :, 67:].any()


def test_presets_and_sizes():
    protocol = Protocol(short_side=640, long_side=2560)
    assert Preprocess.from_protocol(protocol).sizes((480, 640)).resized == (640, 853)
    assert Preprocess.from_protocol(protocol, "hub").sizes((480, 640)).resized == (384, 384)
    assert Preprocess.from_protocol(protocol, "hub", 320).sizes((480, 640)).resized == (320, 427)
    assert Preprocess.from_protocol(protocol, size=320).long_side == 1280
    assert Preprocess.from_protocol(protocol, size=(100, 40)).sizes((480, 640)).padded == (128, 64)
    assert Preprocess.from_protocol(protocol, size=(1, 1)).sizes((480, 640)).resized == (1, 1)
    for preset in ("paper", "hub"):
        own = Preprocess.from_protocol(protocol, preset, "photo").sizes((481, 3000))
        assert (own.photo, own.resized, own.padded) == ((481, 3000), (481, 3000), (512, 3008))
    with pytest.raises(ValueError, match=r"preset 'hubb': expected one of \('paper', 'hub'\)"):
        Preprocess.from_protocol(protocol, "hubb")
    for size in (0, (3, 0), (1, 2, 3), (1.5, 2), "foto"):
        with pytest.raises(ValueError, match="expected a short side"):
            Preprocess.from_protocol(protocol, size=size)


def test_the_hub_preset_keeps_the_shape_where_the_checkpoint_says_so():
    protocol = Protocol(hub_sides=(240, 480))
    for photo, resized in (((480, 640), (240, 320)), ((300, 900), (160, 480))):
        assert Preprocess.from_protocol(protocol, "hub").sizes(photo).resized == resized
    assert Preprocess.from_protocol(protocol).sizes((480, 640)).resized == (800, 1067)
    assert Preprocess.from_protocol(protocol, "hub", 120).long_side == 240


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_colour_modes(mode, tmp_path):
    picture = half_red(mode)
    suffix = "tiff" if mode in ("CMYK", "YCbCr", "HSV") else "png"
    photos = [picture]
    if mode != "HSV":
        # Pillow reads YCbCr without compression from version 13 on
        picture.save(tmp_path / f"a.{suffix}", **{"compression": "tiff_lzw"} if mode == "YCbCr" else {})
        photos.append(tmp_path / f"a.{suffix}")
    for photo in photos:
        read = np.asarray(read_photo(photo)).astype(int)
        assert read.shape == (4, 6, 3)
        assert np.abs(read[:, :3] - RED).max() <= 4 and np.abs(read[:, 3:] - 255).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_modes(mode, tmp_path):
    grey = np.array([[0, 255, 0], [255, 0, 255]])
    if mode == "I;16":
        picture = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode == "I":
        picture = Image.fromarray((grey * 257).astype(np.int32))
    elif mode == "F":
        picture = Image.fromarray((grey / 255).astype(np.float32))
    else:
        picture = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    assert picture.mode == mode
    path = tmp_path / ("a.tiff" if mode in "IF" else "a.png")
    picture.save(path)
    for photo in (picture, path):
        assert np.array_equal(np.asarray(read_photo(photo)), grey[..., None].repeat(3, 2))


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert np.asarray(read_photo(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(("values", "kind", "expected"), [
    ([0, 0.5, 1], np.float32, [0, 128, 255]), ([0, 1.5, 255], np.float32, [0, 2, 255]),
    ([0, 0.1], np.float32, [0, 26]), ([0, 1.5], np.float32, [0, 2]), ([0, 254.6], np.float32, [0, 255]),
    ([0, 7, 255], np.int32, [0, 7, 255]), ([0, 256], np.int32, [0, 64]), ([0, 257, 65535], np.int32, [0, 1, 255]),
    ([0, 1], np.int32, [0, 1]), ([0, 255], np.uint16, [0, 255]),
])  # fmt: skip
def test_what_the_largest_value_says_about_the_range(values, kind, expected):
    """Floats reach from 0 to 1, or to 255; integers to the most that 8, 10, 12, 14 or 16 bits hold."""
    assert np.asarray(read_photo(Image.fromarray(np.array([values], kind))))[0, :, 0].tolist() == expected


def test_transparent_parts_show_white(tmp_path):
    picture = half_red("RGBA")
    picture.putalpha(Image.fromarray(np.array([[255, 255, 0, 0, 255, 255]] * 4, np.uint8)))
    palette = half_red("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "a.png")
    read = np.asarray(read_photo(picture))
    assert (read[:, 2] == 255).all() and (read[:, 0] == RED).all()
    assert (np.asarray(read_photo(tmp_path / "a.png")) == 255).all()


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held at a right angle
    half_red(size=(6, 4)).save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    assert photo.size == (4, 6)
    assert photo.getpixel((0, 0)) == RED and photo.getpixel((0, 5)) == (255, 255, 255)


def test_arrays_and_tensors():
    array = np.asarray(half_red())
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for photo in (array, array[:, ::-1][:, ::-1], tensor, tensor.double() / 255, (tensor / 255).half()):
        assert np.array_equal(np.asarray(read_photo(photo)), array)
    for value in (0, 1):
        assert (np.asarray(read_photo(torch.full((3, 2, 2), float(value)))) == 255 * value).all()


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((4, 4, 3)), r"the array is float64 of shape \(4, 4, 3\): expected uint8 \(H, W, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), "transpose it"),
        (np.zeros((4, 4), np.uint8), "expected uint8"),
        (np.zeros((3, 4), np.uint8), r"\(H, W, 3\), RGB$"),
        (np.zeros((4, 4, 2), np.uint8), r"\(H, W, 3\), RGB$"),
        (torch.zeros(4, 5, 2), "float from 0 to 1$"),
        (np.zeros((0, 4, 3), np.uint8), r"without a pixel, of shape \(0, 4, 3\)"),
        (torch.zeros(4, 5, 3), "permute it"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"the tensor is torch.int64 of shape \(3, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), "expected .3, H, W."),
        (torch.zeros(3, 0, 4), "without a pixel"),
        (torch.full((3, 2, 2), float("nan")), "float with values from nan to nan"),
        (torch.full((3, 2, 2), 255.0), "expected 0 to 1, not normalised"),
        (torch.full((3, 2, 2), -0.5), "expected 0 to 1"),
        (torch.tensor([-0.5, 0.5]).expand(3, 2, 2), "float with values from -0.5 to 0.5: expected 0 to 1"),
        (torch.tensor([0.5, 1.5]).expand(3, 2, 2), "float with values from 0.5 to 1.5: expected 0 to 1"),
        (torch.full((3, 2, 2), 1.5), "float with values from 1.5 to 1.5: expected 0 to 1"),
        (Image.new("RGB", (0, 3)), "the PIL image is without a pixel"),
        (Image.new("RGB", (3, 0)), "the PIL image is without a pixel, 3 × 0"),
        (Image.fromarray(np.array([[-1e9, 3]], np.float32)), "of mode F with values from -1e.09 to 3"),
        (Image.fromarray(np.array([[0.5, np.nan]], np.float32)), "of mode F with values from nan to nan"),
        (Image.fromarray(np.array([[0, 256.5]], np.float32)), "of mode F with values from 0 to 256.5; convert it"),
        (Image.fromarray(np.array([[0, 65536]], np.int32)), "of mode I with values from 0 to 65536; convert it"),
        (torch.zeros(3, 3, 4, 4), r"the tensor is torch.float32 of shape \(3, 3, 4, 4\)"),
        (torch.zeros(3, 4), r"the tensor is torch.float32 of shape \(3, 4\)"),
        (7, "a photo is int: expected a path"),
        (None, "a photo is NoneType"),
    ],
)
def test_what_is_no_photo(photo, message):
    with pytest.raises(PhotoError, match=message):
        read_photo(photo)


def png_chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def jpeg_with_broken_exif():
    """To be turned, and with a resolution that is text."""
    entries = [(0x0112, 3, b"\0\6\0\0"), (0x011A, 2, b"abc\0")]
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + len(entries).to_bytes(2, "big")
    for tag, kind, value in entries:
        count = 1 if kind == 3 else 4
        exif += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value
    file = io.BytesIO()
    half_red().save(file, "jpeg", exif=exif + b"\0\0\0\0")
    return file.getvalue()


BROKEN = {  # each makes the decoder raise another error than those it documents
    "bad.ppm": b"P6\n24\xe9255\n",
    "header.png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", b"\0\0\0\4\0"),
    "exif.jpg": jpeg_with_broken_exif(),
}


def test_bad_files_are_named(tmp_path, monkeypatch):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "jpeg")
    bad = {
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"dear diary", "is not a picture, whatever its name says"),
        "cut.jpg": (whole.getvalue()[: len(whole.getvalue()) // 2], "is broken"),
        "cut.png": (b"\x89PNG\r\n\x1a\n\x00\x00", "is"),
    } | {name: (content, "is broken or of an unknown kind: .") for name, content in BROKEN.items()}
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PhotoError, match=f"{name} {message}"):
            read_photo(tmp_path / name)
    (tmp_path / "photos").mkdir()
    with pytest.raises(PhotoError, match="photos is a folder"):
        read_photo(str(tmp_path / "photos"))
    with monkeypatch.context() as patch, pytest.raises(PermissionError, match=r"exif.jpg may not be read: Denied"):
        patch.setattr(
            Image, "open", lambda path, formats: (_ for _ in ()).throw(PermissionError(13, "Denied", str(path)))
        )
        read_photo(tmp_path / "exif.jpg")
    with pytest.raises(FileNotFoundError, match="none.jpg: no such photo"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError, match="download it first"):
        read_photo("https://example.org/cat.jpg")


def test_absurdly_large_photos_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (300, 200)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (200_000).to_bytes(4, "big") * 2  # the header claims 40 gigapixels
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"large\.png is absurdly large"):
        read_photo(path)
    with pytest.raises(PhotoError, match="absurdly large, 300 × 200; shrink it, or raise max_pixels"):
        read_photo(Image.new("L", (300, 200)), max_pixels=59_999)
    assert read_photo(Image.new("L", (300, 200)), max_pixels=60_000).size == (300, 200)


def test_a_large_photo_is_read():
    values, sizes = Preprocess()(read_photo(Image.new("L", (10_000, 6_000), 90)))
    assert sizes.padded == (800, 1344) and values[0, 0, 0].item() == pytest.approx((90 - 123.675) / 58.395)
