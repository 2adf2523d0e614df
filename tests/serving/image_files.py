"""Files that a request may hold, good and bad, made of one photograph."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image
from sklearn import datasets

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# EXIF's orientation, and its value for a photograph that lies on its side.
ORIENTATION, ON_ITS_SIDE = 0x0112, 6
# Of the SavedModels that these files are sent to, so that an image at the
# limit is soon decoded.
MAX_PIXELS = 1 << 20


@functools.cache
def photograph(width=96, height=80):
    """A real photograph, as files of it are small."""
    whole = Image.fromarray(datasets.load_sample_images().images[0])
    return whole.resize((width, height))


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(image=None, **options):
    return save(image or photograph(), "JPEG", **options)


def png(image=None, **options):
    return save(image or photograph(), "PNG", **options)


def on_its_side():
    exif = Image.Exif()
    exif[ORIENTATION] = ON_ITS_SIDE
    return jpeg(exif=exif)


def chunk(name, data):
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + checksum.to_bytes(4)


def write_png(width, height, rows, bits=8, color=2, interlaced=False):
    """Writes what Pillow does not: any header, 16 bits of red, interlacing."""
    header = struct.pack(
        ">IIBBBBB", width, height, bits, color, 0, 0, interlaced
    )
    return SIGNATURE + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def png_of_16_bits():
    image = (np.asarray(photograph()).astype(int) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    return write_png(96, 80, rows, bits=16)


def interlaced_png():
    image = np.asarray(photograph())
    # Left, top, and the steps to the right and down, of each of the passes.
    passes = [
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ]
    rows = b"".join(
        b"\0" + row.tobytes()
        for left, top, right, down in passes
        for row in image[top::down, left::right]
    )
    return write_png(96, 80, rows, interlaced=True)


def with_chunks(count, name, data):
    """A PNG with as many chunks before the pixels."""
    file = png()
    place = file.index(b"IDAT") - 4
    return file[:place] + count * chunk(name, data) + file[place:]


def with_packed_texts(count, name=b"zTXt"):
    flags = {b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[name]
    packed = zlib.compress(bytes(1 << 20))
    return with_chunks(count, name, b"Comment" + flags + packed)


def with_scans(count, image=None):
    """A progressive JPEG whose last scan comes again, without its data."""
    file = jpeg(image, progressive=True)
    usual = file.count(b"\xff\xda")
    last = file.rindex(b"\xff\xda")
    (length,) = struct.unpack(">H", file[last + 2 : last + 4])
    empty = file[last : last + 2 + length]
    return file[:-2] + empty * (count - usual) + file[-2:]


def changed(file, place, value):
    return file[:place] + bytes([file[place] ^ value]) + file[place + 1 :]


def with_jpeg_size(width, height):
    """A JPEG whose header claims another size."""
    file = jpeg()
    place = file.index(b"\xff\xc0") + 5
    return file[:place] + struct.pack(">HH", height, width) + file[place + 4 :]


def wide(height):
    """A photograph of 20,000 pixels by a few."""
    return photograph(20_000, height)


def good_files():
    """By name, what a server can label."""
    grey, rgba = photograph().convert("L"), photograph().convert("RGBA")
    rgba.putalpha(grey)
    palette = photograph().convert("P", palette=Image.Palette.ADAPTIVE)
    tall = MAX_PIXELS // 20_000
    return {
        "JPEG": jpeg(),
        "progressive JPEG": jpeg(progressive=True),
        "JPEG without subsampling": jpeg(subsampling=0, quality=95),
        "JPEG of quality 1": jpeg(quality=1),
        "grey JPEG": jpeg(grey),
        "CMYK JPEG": jpeg(photograph().convert("CMYK")),
        "JPEG on its side": on_its_side(),
        "JPEG with bytes behind it": jpeg() + b"more" * 100,
        "JPEG with scans behind it": jpeg() + b"\xff\xda" * 1000,
        # It has no checksum: what is missing is grey, here and in evaluation.
        "JPEG of which half is missing": jpeg()[:1500] + jpeg()[-2:],
        "PNG": png(),
        "grey PNG": png(grey),
        "grey PNG with alpha": png(rgba.convert("LA")),
        "PNG with alpha": png(rgba),
        "PNG with a palette": png(palette),
        "PNG with a transparent colour": png(palette, transparency=3),
        "PNG of two colours": png(photograph().convert("1")),
        "grey PNG of 16 bits": png(grey.convert("I;16")),
        "PNG of 16 bits": png_of_16_bits(),
        "interlaced PNG": interlaced_png(),
        "PNG with bytes behind it": png() + b"more" * 100,
        "PNG with texts": with_packed_texts(16),
        "JPEG of 1x1": jpeg(photograph(1, 1)),
        "PNG of 1x1": png(photograph(1, 1)),
        "JPEG of one row": jpeg(photograph(500, 1)),
        "JPEG of 20,000 pixels a row": jpeg(wide(tall)),
        "PNG of 20,000 pixels a row": png(wide(tall)),
    }


def bad_files():
    """By name, what it cannot, and the status that tells why."""
    page = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
    tall = MAX_PIXELS // 20_000 + 1
    files = {
        "empty": {"nothing": b""},
        "unsupported format": {
            "a byte": b"\xff",
            "zeros": bytes(1000),
            "a page named .jpg": page,
            "GIF": save(photograph(), "GIF"),
            "BMP": save(photograph(), "BMP"),
            "WebP": save(photograph(), "WEBP"),
            "TIFF": save(photograph(), "TIFF"),
            "JPEG 2000": save(photograph(), "JPEG2000"),
            "PNG cut in its signature": png()[:7],
            "JPEG behind a page": page + jpeg(),
        },
        "too large": {
            "JPEG of too many pixels": jpeg(wide(tall)),
            "PNG of too many pixels": png(wide(tall)),
            "JPEG that claims to be huge": with_jpeg_size(65_500, 65_500),
            "PNG that claims to be huge": write_png(10**5, 10**5, b""),
            "PNG that claims the most": write_png(2**31 - 1, 2**31 - 1, b""),
            "JPEG of too many scans": with_scans(14_000),
            "PNG of too many texts": with_packed_texts(17),
            "PNG of too many international texts": with_packed_texts(
                17, b"iTXt"
            ),
        },
        "unreadable": {
            "JPEG of three bytes": jpeg()[:3],
            "JPEG cut in its header": jpeg()[:100],
            "JPEG cut in half": jpeg()[: len(jpeg()) // 2],
            "JPEG without its end": jpeg()[:-2],
            "progressive JPEG cut in half": jpeg(progressive=True)[:1500],
            "JPEG that claims to be nothing": with_jpeg_size(0, 0),
            "JPEG beyond what JPEG allows": with_jpeg_size(65_535, 65_535),
            "PNG cut in its signature's line": png()[:8],
            "PNG cut in its size": png()[:18],
            "PNG cut in half": png()[: len(png()) // 2],
            "PNG with a bit changed": changed(png(), len(png()) // 2, 1),
            "PNG with a byte too much": png().replace(b"IDAT", b"IDAT\0", 1),
            "PNG that claims to be nothing": write_png(0, 0, b""),
            "PNG that claims to be more than it is": write_png(500, 500, b""),
            "PNG of a negative size": write_png(2**32 - 1, 2**32 - 1, b""),
        },
    }
    return {
        name: (file, status)
        for status, named in files.items()
        for name, file in named.items()
    }
