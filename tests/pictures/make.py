#!/usr/bin/env python3
"""Writes the small pictures of this folder, which tests/pictures.rs reads: make.py [FOLDER].

Each is the same picture in another encoding: 45 x 29 pixels, three by two fields of one colour each. Needs Pillow 13.0.0,
and cjpeg (libjpeg-turbo 2.1.5) and convert (ImageMagick 6.9) in the path. Names that begin with `skip` are not read.
"""
import pathlib, subprocess, sys, tempfile
from PIL import Image, ImageDraw

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
COLOURS = [(200, 40, 40), (40, 160, 60), (50, 60, 200), (220, 200, 50), (128, 128, 128), (30, 20, 60)]
TEMP = pathlib.Path(tempfile.mkdtemp())

fields = Image.new("RGB", (45, 29))
for i, colour in enumerate(COLOURS):
    x, y = i % 3 * 16, i // 3 * 16
    ImageDraw.Draw(fields).rectangle([x, y, x + 15, y + 15], fill=colour)
fields.save(TEMP / "fields.ppm")
fields.save(TEMP / "fields.png")
few = fields.quantize(8)
few.save(TEMP / "few.png")

def cjpeg(name, *options, scans=None):
    if scans:
        (TEMP / "scans.txt").write_text(scans)
        options += ("-scans", TEMP / "scans.txt")
    tables = () if "-arithmetic" in options else ("-optimize",)
    run = ["cjpeg", "-quality", "92", *tables, *options, "-outfile", OUT / f"{name}.jpg", TEMP / "fields.ppm"]
    subprocess.run(run, check=True)

def convert(name, *options, source="fields"):
    subprocess.run(["convert", TEMP / f"{source}.png", *options, OUT / name], check=True)

# JPEG: sampling.
for name, sampling in {"444": "1x1", "422": "2x1", "420": "2x2", "440": "1x2", "411": "4x1", "3x1": "3x1",
                       "luma_halved": "1x1,2x2,2x2", "mixed": "2x2,2x1,1x2"}.items():
    cjpeg(f"sampling_{name}", "-sample", sampling)
# JPEG: scans, restarts.
SINGLE, SPLIT = "0;\n1;\n2;\n", "0;\n1 2;\n"
cjpeg("scans_single_420", "-sample", "2x2", scans=SINGLE)
cjpeg("scans_single_422", "-sample", "2x1", scans=SINGLE)
cjpeg("scans_single_440", "-sample", "1x2", scans=SINGLE)
cjpeg("scans_luma_last", "-sample", "2x2", scans="1;\n2;\n0;\n")
cjpeg("scans_split_420", "-sample", "2x2", scans=SPLIT)
cjpeg("restarts_420", "-sample", "2x2", "-restart", "1B")
cjpeg("restarts_scans", "-sample", "2x2", "-restart", "3B", scans=SINGLE)
cjpeg("progressive_420", "-sample", "2x2", "-progressive")
cjpeg("progressive_444", "-sample", "1x1", "-progressive")
cjpeg("progressive_restarts", "-sample", "2x2", "-progressive", "-restart", "1")
# JPEG: colours.
cjpeg("grey", "-grayscale")
cjpeg("grey_restarts_2x2", "-grayscale", "-sample", "2x2", "-restart", "3B")
cjpeg("rgb", "-rgb")
fields.convert("CMYK").save(OUT / "cmyk.jpg", quality=92, optimize=True)
# JPEG: what is not read.
cjpeg("skip_arithmetic", "-arithmetic")
cjpeg("skip_unfinished", scans="0,1,2: 0-0, 0, 0;\n")
cjpeg("skip_single_4x2_2x1", "-sample", "4x2,2x1,2x1", scans=SINGLE)
twelve = bytearray((OUT / "sampling_420.jpg").read_bytes())
frame = twelve.find(b"\xff\xc0")
twelve[frame + 1], twelve[frame + 4] = 0xC1, 12
(OUT / "skip_12_bit.jpg").write_bytes(twelve)

# Other formats: what their usual writers do not do.
convert("interlaced.png", "-interlace", "PNG")
few.save(OUT / "palette.png", bits=4)
few.save(OUT / "interlaced.gif", interlace=1)
convert("runs.bmp", "-compress", "RLE", source="few")
fields.save(OUT / "runs.tga", compression="tga_rle")
few.save(OUT / "palette.tga")
fields.save(OUT / "lossy.webp", quality=95)
turned = Image.Exif()
turned[0x112] = 6
fields.transpose(Image.Transpose.ROTATE_90).save(OUT / "turned.webp", lossless=True, exif=turned)
fields.save(OUT / "lzw.tif", compression="tiff_lzw", tiffinfo={317: 2})
convert("tiles.tif", "-define", "tiff:tile-geometry=16x16", "-compress", "Zip")
convert("planes_big_endian.tif", "-interlace", "plane", "-endian", "MSB", "-compress", "Zip")
fields.convert("CMYK").save(OUT / "cmyk.tif", compression="tiff_deflate")
convert("skip_lowest_bit_first.tif", "-monochrome", "-define", "tiff:fill-order=lsb", "-compress", "Group4")
convert("skip_32_bit.tif", "-depth", "32", "-compress", "Zip")
few.save(OUT / "skip_palette.tif", compression="tiff_lzw")
fields.save(OUT / "skip_preview.tif", compression="tiff_lzw", tiffinfo={254: 1})
