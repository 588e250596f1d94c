//! Every encoding shows the same picture, or is refused by name. The files in `pictures/` are made by `pictures/make.py`.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgrad::data::{FolderOptions, Image, image_folder};

use crate::data::{assert_mentions, refused};

/// The picture in all files: 45 × 29 pixels, fields of 16 × 16, three in a row, of these colours.
const FIELDS: [[u8; 3]; 6] =
    [[200, 40, 40], [40, 160, 60], [50, 60, 200], [220, 200, 50], [128, 128, 128], [30, 20, 60]];
const SIZE: (u32, u32) = (45, 29);
/// Pixels from a field's edge where colours may run together: subsampling reaches that far.
const MARGIN: u32 = 4;
/// How far a lossy encoding may be from a field's colour; another field's is at least 90 away.
const TOLERANCE: u8 = 6;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// The largest difference from the fields' colours; grey has their luma.
fn difference(image: &Image<'_>, grey: bool) -> u8 {
    assert_eq!((image.width(), image.height()), SIZE);
    let within = |at: u32| (MARGIN..16 - MARGIN).contains(&(at % 16));
    let pixels = image.pixels().chunks_exact(3).zip((0..SIZE.1).flat_map(|y| (0..SIZE.0).map(move |x| (x, y))));
    let inside = pixels.filter(|(_, (x, y))| within(*x) && within(*y));
    let differences = inside.flat_map(|(pixel, (x, y))| {
        let [red, green, blue] = FIELDS[(x / 16 + 3 * (y / 16)) as usize];
        let luma = (0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)).round() as u8;
        let colour = if grey { [luma; 3] } else { [red, green, blue] };
        [0, 1, 2].map(|channel| pixel[channel].abs_diff(colour[channel]))
    });
    differences.max().unwrap()
}

/// A place for one file of any content.
struct Place {
    _dir: TempDir,
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        Place { path: dir.path().join(name), _dir: dir }
    }

    fn open(&self, bytes: &[u8]) -> wgrad::Result<Image<'static>> {
        fs::write(&self.path, bytes).unwrap();
        Image::open(&self.path)
    }

    /// Fails unless the bytes show the fields.
    #[track_caller]
    fn shows_fields(&self, what: &str, bytes: &[u8]) {
        let image = self.open(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        let difference = difference(&image, false);
        assert!(difference <= TOLERANCE, "{what}: a pixel differs by {difference}");
    }
}

#[test]
fn every_encoding_shows_the_same_picture() {
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("skip") || name.ends_with(".py") {
            continue;
        }
        let image = Image::open(&path).unwrap();
        let difference = difference(&image, name.starts_with("grey"));
        assert!(difference <= TOLERANCE, "{name}: a pixel differs by {difference}");
        count += 1;
    }
    assert_eq!(count, 34);
}

#[test]
fn what_would_be_decoded_wrongly_is_refused_by_name() {
    for (name, why) in [
        ("skip_arithmetic.jpg", "arithmetic-coded"),
        ("skip_12_bit.jpg", "12-bit"),
        ("skip_unfinished.jpg", "before all its scans have come"),
        ("skip_single_4x2_2x1.jpg", "one channel sampled 2x1 of 4x2"),
        ("skip_lowest_bit_first.tif", "lowest bit"),
        ("skip_32_bit.tif", "32-bit integers"),
        ("skip_palette.tif", "RGBPalette"),
        ("skip_preview.tif", "raw photo"),
    ] {
        assert_mentions(&refused(Image::open(&folder().join(name))), &[name, why]);
    }
}

/// A picture of one pixel, (100, 50, 25) with a fourth sample of 128, uncompressed.
fn tiff_of_four(extra: u16, predictor: u16) -> Vec<u8> {
    // Entries of 12 bytes in the order of their tags, behind them the samples' bits, behind those the pixel.
    let (short, long) = (3u16, 4u16);
    let (bits_at, pixel_at) = (8 + 2 + 12 * 11 + 4, 8 + 2 + 12 * 11 + 4 + 8);
    let entries: [(u16, u16, u32, u32); 11] = [
        (256, long, 1, 1),
        (257, long, 1, 1),
        (258, short, 4, bits_at),
        (259, short, 1, 1),
        (262, short, 1, 2),
        (273, long, 1, pixel_at),
        (277, short, 1, 4),
        (278, long, 1, 1),
        (279, long, 1, 4),
        (317, short, 1, predictor.into()),
        (338, short, 1, extra.into()),
    ];
    let mut bytes = [b"II*\0".as_slice(), &8u32.to_le_bytes(), &11u16.to_le_bytes()].concat();
    for (tag, kind, count, value) in entries {
        bytes.extend([tag, kind].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend([count, value].into_iter().flat_map(u32::to_le_bytes));
    }
    bytes.extend([0; 4]);
    bytes.extend([8u16; 4].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend([100, 50, 25, 128]);
    bytes
}

/// A fourth channel that is no opacity, or one that has been multiplied into the others.
#[test]
fn tiffs_with_further_channels() {
    let folder = tempfile::tempdir().unwrap();
    let open = |extra, predictor| {
        let path = folder.path().join("four.tif");
        fs::write(&path, tiff_of_four(extra, predictor)).unwrap();
        Image::open(&path)
    };
    for extra in [0, 2] {
        assert_eq!(open(extra, 1).unwrap().pixels(), [100, 50, 25], "ExtraSamples {extra}");
    }
    assert_mentions(&refused(open(1, 1)), &["multiplied by their opacity"]);
    assert_mentions(&refused(open(0, 2)), &["further channels", "predictor"]);
}

#[test]
fn a_jpeg_cut_anywhere_is_whole_or_refused() {
    let place = Place::new("photo.jpg");
    for name in
        ["sampling_420.jpg", "restarts_420.jpg", "scans_single_420.jpg", "progressive_420.jpg", "sampling_411.jpg"]
    {
        let whole = bytes(name);
        for end in [&[][..], &[0xff, 0xd9]] {
            for length in 0..whole.len() - 2 {
                let cut = [&whole[..length], end].concat();
                match place.open(&cut) {
                    Err(error) => assert_mentions(&error.to_string(), &["photo.jpg"]),
                    // What is missing are bits that fill the last byte up, or the last block's finest ones.
                    Ok(_) if length + 4 >= whole.len() => {}
                    Ok(_) => panic!("{name} is read when cut after {length} bytes of {}", whole.len()),
                }
            }
        }
    }
}

/// Behind its pixels stands how it is turned.
#[test]
fn a_webp_that_is_cut_is_refused() {
    let place = Place::new("photo.webp");
    for name in ["turned.webp", "lossy.webp"] {
        let whole = bytes(name);
        place.shows_fields("whole, and more", &[whole.as_slice(), b"more"].concat());
        for length in 1..whole.len() {
            assert_mentions(&refused(place.open(&whole[..length])), &["photo.webp"]);
        }
    }
    // A chunk that says it is larger than the file, for which the decoder would take the memory.
    let mut whole = bytes("turned.webp");
    let place_of_size = whole.windows(4).position(|name| name == b"EXIF").unwrap() + 4;
    whole[place_of_size..][..4].copy_from_slice(&0xFF00_001Au32.to_le_bytes());
    assert_mentions(&refused(place.open(&whole)), &["photo.webp", "cut short"]);
}

/// The decoder of PNG panics on it.
#[test]
fn a_decoder_that_fails_is_the_files_error() {
    let mut png = bytes("palette.png");
    let palette = png.windows(4).position(|name| name == b"PLTE").unwrap();
    // A palette of two bytes, with the checksum that it should have.
    let length = usize::from(png[palette - 1]);
    let chunk = [b"\0\0\0\x02PLTE\x10\x20".as_slice(), &[0; 4]].concat();
    png.splice(palette - 4..palette + 4 + length + 4, chunk);
    let mut sum = flate2::Crc::new();
    sum.update(&png[palette..palette + 6]);
    png[palette + 6..palette + 10].copy_from_slice(&sum.sum().to_be_bytes());
    assert_mentions(&refused(Place::new("photo.png").open(&png)), &["photo.png"]);
}

#[test]
fn what_follows_a_jpeg_does_not_matter() {
    let place = Place::new("photo.jpg");
    let other = bytes("rgb.jpg");
    for name in ["sampling_420.jpg", "restarts_420.jpg", "scans_single_420.jpg", "progressive_420.jpg"] {
        let whole = bytes(name);
        let data = &whole[..whole.len() - 2];
        // Phones write their own records behind the picture, some in place of the end marker.
        let record = [b"\0\0\x01\x0aSEFT".as_slice(), &[0; 200]].concat();
        place.shows_fields("no end marker", data);
        place.shows_fields("a record for the end marker", &[data, &record].concat());
        place.shows_fields("another picture for the end marker", &[data, &other].concat());
        place.shows_fields("a segment for the end marker", &[data, b"\xff\xe1\0\x08abcdef"].concat());
        place.shows_fields("a record", &[&whole, record.as_slice()].concat());
        place.shows_fields("another picture", &[whole, other.clone()].concat());
    }
}

#[test]
fn bytes_between_segments_are_passed_over() {
    let place = Place::new("photo.jpg");
    for name in ["sampling_420.jpg", "scans_single_420.jpg", "progressive_420.jpg"] {
        let whole = bytes(name);
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for at in [2, 20, scan] {
            let with = |extra: &[u8]| [&whole[..at], extra, &whole[at..]].concat();
            place.shows_fields("fill bytes", &with(&[0xff; 3]));
            place.shows_fields("a comment with an end marker in it", &with(b"\xff\xfe\0\x06\xff\xd9ab"));
            place.shows_fields("markers that stand alone", &with(b"\xff\xd0\xff\x01"));
            if at > 2 {
                place.shows_fields("stray bytes", &with(b"stray"));
            }
        }
        let end = whole.len() - 2;
        place.shows_fields("fill bytes at the end", &[&whole[..end], &[0xff; 3], &whole[end..]].concat());
    }
}

#[test]
fn the_colours_of_a_jpeg_are_found_as_libjpeg_finds_them() {
    let place = Place::new("photo.jpg");
    let without = |whole: &[u8], marker: u8| {
        let at = whole.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
        let length = usize::from(u16::from_be_bytes([whole[at + 2], whole[at + 3]]));
        [&whole[..at], &whole[at + 2 + length..]].concat()
    };
    let named = |whole: &[u8], ids: [u8; 3]| {
        let mut renamed = whole.to_vec();
        let frame = whole.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for (channel, id) in ids.into_iter().enumerate() {
            renamed[frame + 10 + 3 * channel] = id;
            renamed[scan + 5 + 2 * channel] = id;
        }
        renamed
    };
    let adobe = |whole: &[u8], transform: u8| {
        [&whole[..2], b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0", &[transform], &whole[2..]].concat()
    };
    for name in ["sampling_444.jpg", "sampling_420.jpg"] {
        let jfif = bytes(name);
        let bare = without(&jfif, 0xe0);
        place.shows_fields("YCbCr with nothing that says so", &bare);
        place.shows_fields("YCbCr by Adobe's word", &adobe(&bare, 1));
        place.shows_fields("JFIF is YCbCr whatever Adobe says", &adobe(&jfif, 0));
        place.shows_fields("JFIF is YCbCr whatever its channels are called", &named(&jfif, *b"RGB"));
        place.shows_fields("other names are YCbCr", &named(&bare, [0, 1, 2]));
    }
    let rgb = bytes("rgb.jpg");
    place.shows_fields("RGB by Adobe's word", &named(&rgb, [1, 2, 3]));
    place.shows_fields("RGB by its channels' names", &named(&without(&rgb, 0xee), *b"RGB"));
}

#[test]
fn what_is_no_picture_is_called_by_its_name() {
    let place = Place::new("photo.jpg");
    for (content, what) in [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic".as_slice(), "a HEIC picture, though it is named .jpg"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF picture"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a raw photo"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\r\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0", "a JPEG-LS picture"),
        (b"", "is empty"),
        (&[0; 100], "nothing but zeros"),
        (b"hello", "no picture of a kind that is read, though it is named .jpg"),
    ] {
        assert_mentions(&refused(place.open(content)), &["photo.jpg", what]);
    }
    // A name that promises nothing else.
    let message = refused(Place::new("photo.heic").open(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"));
    assert_mentions(&message, &["is a HEIC picture: it is not read"]);
}

#[test]
fn a_small_jpeg_cannot_ask_for_much_work() {
    let place = Place::new("photo.jpg");
    let find = |bytes: &[u8], marker: u8| bytes.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
    let mut claims = bytes("sampling_420.jpg");
    let frame = find(&claims, 0xc0);
    // 8192 × 8192 pixels are within the limits; data of 100 bytes are not enough for them.
    claims[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    assert_mentions(&refused(place.open(&claims)), &["photo.jpg", "cut short"]);

    // The first scan of a progressive one, over and over.
    let progressive = bytes("progressive_420.jpg");
    let scan = find(&progressive, 0xda);
    let end = scan + 2 + find(&progressive[scan + 2..], 0xc4);
    let many = [&progressive[..scan], &progressive[scan..end].repeat(101), &progressive[end..]].concat();
    assert_mentions(&refused(place.open(&many)), &["photo.jpg", "more than 100 scans"]);
}

#[test]
fn all_usual_names_of_pictures_are_taken() {
    let dir = TempDir::new().unwrap();
    let class = dir.path().join("cat");
    fs::create_dir(&class).unwrap();
    let endings = [
        "jpg", "JPG", "jpeg", "jpe", "jfif", "jif", "mpo", "png", "webp", "tif", "tiff", "gif", "bmp", "ppm", "tga",
        "qoi",
    ];
    for ending in endings.iter().chain(&["txt", "heic", "ico", "json"]) {
        fs::copy(folder().join("sampling_420.jpg"), class.join(format!("in_{ending}.{ending}"))).unwrap();
    }
    let options = FolderOptions { validation: 0.0, test: 0.0, ..Default::default() };
    let data = image_folder(dir.path(), options).unwrap();
    assert_eq!(data.train.len(), endings.len());
    // The content decides, not the name.
    for sample in 0..data.train.len() as u32 {
        let difference = difference(&data.train.image(sample).unwrap(), false);
        assert!(difference <= TOLERANCE, "{}: a pixel differs by {difference}", data.train.name(sample));
    }
}
