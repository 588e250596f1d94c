//! Data sets, decoding, resizing, augmentation and the loader.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgrad::data::{
    Crop, CropMode, FolderOptions, Image, ImageBatch, ImageOptions, ImageSource, Interpolation, Key, Loader,
    LoaderOptions, Normalize, Padding, Position, Split, Transform, cifar10, cifar100, digits, image_folder,
};
use wgrad::{Error, Result};

/// The message of an expected error.
pub fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("an error").to_string()
}

pub fn assert_mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing from {message:?}");
    }
}

/// A picture of noise that any language makes alike: the high bytes of a linear congruential generator that starts at
/// 65536·width + height.
pub fn noise(width: u32, height: u32) -> Image<'static> {
    let mut state = width * 65536 + height;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let pixels: Vec<u8> = std::iter::repeat_with(next).take((width * height * 3) as usize).collect();
    Image::new(width, height, pixels).unwrap()
}

/// Samples of noise, `count` of side `side`, in `classes` classes.
fn noise_split(count: u32, side: u32, classes: u32) -> Split {
    let pixels = noise(side, side * count).pixels().to_vec();
    Split::from_pixels(side, side, pixels, (0..count).map(|sample| sample % classes).collect()).unwrap()
}

/// The 64-bit FNV-1a hash.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

pub fn channels_first(image: &Image<'_>) -> Vec<u8> {
    (0..3).flat_map(|channel| image.pixels().iter().skip(channel).step_by(3).copied()).collect()
}

/// A part of a picture.
fn cut(image: &Image<'_>, left: usize, top: usize, side: usize) -> Image<'static> {
    let width = image.width() as usize;
    let row = |y: usize| image.pixels()[(y * width + left) * 3..(y * width + left + side) * 3].to_vec();
    Image::new(side as u32, side as u32, (top..top + side).flat_map(row).collect::<Vec<_>>()).unwrap()
}

fn mirror(image: &Image<'_>) -> Image<'static> {
    let rows = image.pixels().chunks_exact(image.width() as usize * 3);
    let pixels: Vec<u8> = rows.flat_map(|row| row.chunks_exact(3).rev().flatten().copied()).collect();
    Image::new(image.width(), image.height(), pixels).unwrap()
}

// Digits.

#[test]
fn digits_are_all_there_and_divided_by_class() {
    let data = digits().unwrap();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [1259, 179, 359]);
    assert_eq!(data.class_names.len(), 10);
    let per_class = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]; // As UCI's description of the test set has it.
    let [train, validation, test] = [&data.train, &data.validation, &data.test].map(|split| split.class_counts(10));
    for class in 0..10 {
        assert_eq!(train[class] + validation[class] + test[class], per_class[class], "digit {class}");
        assert_eq!(validation[class], (per_class[class] as f64 * 0.1).round() as usize, "digit {class}");
        assert_eq!(test[class], (per_class[class] as f64 * 0.2).round() as usize, "digit {class}");
    }
}

#[test]
fn digits_normalization_is_that_of_the_training_split() {
    let data = digits().unwrap();
    let images: Vec<_> = (0..data.train.len() as u32).map(|sample| data.train.image(sample).unwrap()).collect();
    let values: Vec<f64> = images.iter().flat_map(Image::pixels).map(|&v| f64::from(v) / 255.0).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let Normalize { mean: [said_mean, ..], std: [said_std, ..] } = Normalize::DIGITS;
    assert!((mean - f64::from(said_mean)).abs() < 5e-4, "mean {mean}");
    assert!((variance.sqrt() - f64::from(said_std)).abs() < 5e-4, "std {}", variance.sqrt());
}

// Splits.

#[test]
fn dividing_is_disjoint_complete_and_leaves_no_class_out_of_training() {
    // Class 9 has a single sample, class 0 three, the others 11.
    let labels: Vec<u32> = [0; 3].into_iter().chain((0..88).map(|n| 1 + n % 8)).chain([9]).collect();
    let names: Vec<PathBuf> = (0..labels.len()).map(|n| PathBuf::from(format!("{n:02}.png"))).collect();
    let all = Split::from_files(names, labels.clone()).unwrap();
    let parts = all.divide(0.2, 0.25, 5).unwrap();
    let mut seen: Vec<String> = Vec::new();
    for part in &parts {
        let names: Vec<String> = (0..part.len() as u32).map(|sample| part.name(sample)).collect();
        assert!(names.is_sorted());
        let own_labels = names.iter().map(|name| labels[name[..2].parse::<usize>().unwrap()]);
        assert!(own_labels.eq(part.labels().iter().copied()));
        seen.extend(names);
    }
    seen.sort();
    assert!(seen.iter().eq(&(0..labels.len()).map(|n| format!("{n:02}.png")).collect::<Vec<_>>()));
    assert_eq!(parts[0].class_counts(10), [1, 6, 6, 6, 6, 6, 6, 6, 6, 1]);
    assert_eq!(parts[1].class_counts(10), [1, 2, 2, 2, 2, 2, 2, 2, 2, 0]);

    let again = all.divide(0.2, 0.25, 5).unwrap();
    assert_eq!(parts[1].name(0), again[1].name(0));
    assert_mentions(&refused(all.divide(0.5, 0.5, 0)), &["shares", "0.5"]);
    assert_mentions(&refused(all.divide(f64::NAN, 0.0, 0)), &["shares"]);
}

#[test]
fn splits_refuse_what_does_not_fit_together() {
    assert_mentions(&refused(Split::from_pixels(2, 2, vec![0; 23], vec![0, 1])), &["24 bytes", "23"]);
    assert_mentions(&refused(Split::from_pixels(0, 2, vec![], vec![])), &["width"]);
    assert_mentions(&refused(Split::from_files(vec!["a.png".into()], vec![])), &["labels"]);
    let split = noise_split(3, 2, 3);
    assert_mentions(&refused(split.image(3)), &["below 3"]);
    assert_mentions(&refused(split.subset(&[0, 7])), &["below 3", "7"]);
}

// CIFAR.

/// Records as in CIFAR: the given label bytes, then 3,072 bytes that count up from the record's number.
fn records(labels: &[&[u8]]) -> Vec<u8> {
    let record = |(number, label): (usize, &&[u8])| {
        let pixels = (0..3072).map(move |at| (number + at) as u8);
        label.iter().copied().chain(pixels).collect::<Vec<u8>>()
    };
    labels.iter().enumerate().flat_map(record).collect()
}

fn write_cifar10(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let names: String = (0..10).map(|class| format!("class{class}\n")).collect();
    fs::write(dir.join("batches.meta.txt"), names + "\n").unwrap();
    let labels: Vec<[u8; 1]> = (0..50).map(|n| [n % 10]).collect();
    let labels: Vec<&[u8]> = labels.iter().map(<[u8; 1]>::as_slice).collect();
    fs::write(dir.join("data_batch_1.bin"), records(&labels)).unwrap();
    fs::write(dir.join("data_batch_10"), records(&labels)).unwrap();
    fs::write(dir.join("test_batch.bin"), records(&labels[..7])).unwrap();
}

#[test]
fn cifar10_is_read_from_the_folder_or_the_one_around_it() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("cifar-10-batches-bin");
    write_cifar10(&inner);
    for place in [dir.path(), &inner] {
        let data = cifar10(place).unwrap();
        assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [90, 10, 7]);
        assert_eq!(data.validation.class_counts(10), [1; 10]);
        assert_eq!((data.class_names[0].as_str(), data.class_names.len()), ("class0", 10));
        let third = data.test.image(2).unwrap();
        assert_eq!(third.pixels()[..6], [2, 2, 2, 3, 3, 3]); // 1,024 is 0 in a byte, so the planes are alike.
        assert_eq!(data.test.labels()[2], 2);
    }
}

#[test]
fn cifar100_takes_the_fine_label() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    write("fine_label_names.txt", (0..100).map(|class| format!("fine{class}\n")).collect::<String>().into_bytes());
    write("train.bin", records(&[&[3, 77], &[0, 5], &[19, 99]]));
    write("test.bin", records(&[&[1, 42]]));
    let data = cifar100(dir.path()).unwrap();
    assert_eq!(data.train.labels(), [77, 5, 99]);
    assert_eq!(data.test.labels(), [42]);

    write("train.bin", records(&[&[3, 77], &[20, 5]]));
    assert_mentions(&refused(cifar100(dir.path())), &["train.bin at byte 3074", "label 20 must be below 20"]);
    write("train.bin", records(&[&[3, 77], &[0, 100]]));
    assert_mentions(&refused(cifar100(dir.path())), &["train.bin at byte 3075", "label 100 must be below 100"]);
}

#[test]
fn damaged_cifar_files_are_named_with_the_place() {
    let dir = TempDir::new().unwrap();
    write_cifar10(dir.path());
    let batch = dir.path().join("data_batch_1.bin");
    let good = fs::read(&batch).unwrap();

    fs::write(&batch, &good[..3073 * 2 + 100]).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["data_batch_1.bin at byte 6146", "100 of 3073"]);
    fs::write(&batch, []).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["data_batch_1.bin at byte 0"]);
    let mut bad = good.clone();
    bad[3073 * 4] = 10;
    fs::write(&batch, bad).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["data_batch_1.bin at byte 12292", "label 10"]);

    fs::write(&batch, good).unwrap();
    fs::write(dir.path().join("batches.meta.txt"), "cat\ndog\n").unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["batches.meta.txt", "2 class names"]);
    fs::remove_file(dir.path().join("batches.meta.txt")).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["batches.meta.txt"]);
    write_cifar10(dir.path());
    fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["test_batch.bin"]);
    fs::remove_file(dir.path().join("data_batch_1.bin")).unwrap();
    fs::remove_file(dir.path().join("data_batch_10")).unwrap();
    assert_mentions(&refused(cifar10(dir.path())), &["data_batch_N.bin"]);
}

// Photos.

pub fn save(path: &Path, image: &Image<'_>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::save_buffer(path, image.pixels(), image.width(), image.height(), image::ColorType::Rgb8).unwrap();
}

/// A folder with `photos` photos in each of `classes`.
pub fn photo_folder(root: &Path, classes: &[&str], photos: u32) {
    for (class, name) in classes.iter().enumerate() {
        for photo in 0..photos {
            save(&root.join(name).join(format!("{photo:02}.png")), &noise(16 + photo, 20 + class as u32));
        }
    }
}

#[test]
fn plain_class_folders_are_divided() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["dog", "cat"], 10);
    fs::write(dir.path().join("cat/.hidden.png"), "x").unwrap();
    fs::write(dir.path().join("cat/notes.txt"), "x").unwrap();
    fs::write(dir.path().join("README.md"), "x").unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    let data = image_folder(dir.path(), FolderOptions::default()).unwrap();
    assert_eq!(data.class_names, ["cat", "dog"]);
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [14, 2, 4]);
    assert_eq!(data.test.class_counts(2), [2, 2]);
    assert!(data.train.name(0).contains("cat"));

    let none = FolderOptions { validation: 0.0, test: 0.0, ..Default::default() };
    let data = image_folder(dir.path(), none).unwrap();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [20, 0, 0]);
    let names: Vec<_> = (0..20).map(|sample| data.train.name(sample)).collect();
    assert!(names.is_sorted());
}

#[test]
fn given_splits_are_used_as_they_are() {
    let dir = TempDir::new().unwrap();
    photo_folder(&dir.path().join("train"), &["a", "b", "c"], 10);
    photo_folder(&dir.path().join("validation"), &["b", "c"], 3);
    let data = image_folder(dir.path(), FolderOptions::default()).unwrap();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [30, 6, 0]);
    assert_eq!(data.validation.class_counts(3), [0, 3, 3]);

    fs::rename(dir.path().join("validation"), dir.path().join("test")).unwrap();
    let data = image_folder(dir.path(), FolderOptions::default()).unwrap();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [27, 3, 6]);

    photo_folder(&dir.path().join("val"), &["b", "z"], 1);
    assert_mentions(&refused(image_folder(dir.path(), FolderOptions::default())), &["class z", "training classes"]);
    fs::create_dir(dir.path().join("validation")).unwrap();
    assert_mentions(&refused(image_folder(dir.path(), FolderOptions::default())), &["val", "validation"]);
}

#[test]
fn folders_that_hold_no_data_set_are_refused() {
    let dir = TempDir::new().unwrap();
    let open = |path: &Path| refused(image_folder(path, FolderOptions::default()));
    assert_mentions(&open(dir.path()), &["no class folders"]);
    assert_mentions(&open(&dir.path().join("missing")), &["missing"]);
    photo_folder(dir.path(), &["full"], 2);
    fs::create_dir(dir.path().join("hollow")).unwrap();
    assert_mentions(&open(dir.path()), &["hollow", "no pictures"]);
    fs::remove_dir(dir.path().join("hollow")).unwrap();
    let greedy = FolderOptions { validation: 0.6, test: 0.6, ..Default::default() };
    assert_mentions(&refused(image_folder(dir.path(), greedy)), &["shares"]);
}

/// A JPEG of 32 × 16 with four quarters, black, red, green and blue in reading order, and this Exif orientation.
fn quarters_jpeg(orientation: u8) -> Vec<u8> {
    let colour = |x: usize, y: usize| [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]][x / 16 + 2 * (y / 8)];
    let pixels: Vec<u8> = (0..32 * 16).flat_map(|at| colour(at % 32, at / 32)).collect();
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95);
    encoder.encode(&pixels, 32, 16, image::ExtendedColorType::Rgb8).unwrap();
    // A big-endian TIFF with one directory entry: tag 0x0112, SHORT, one value.
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut segment = vec![0xff, 0xe1];
    segment.extend((exif.len() as u16 + 2).to_be_bytes());
    segment.extend(exif);
    jpeg.splice(2..2, segment);
    jpeg
}

/// Which quarter a corner shows: 0 black, 1 red, 2 green, 3 blue.
fn corner(image: &Image<'_>, right: bool, bottom: bool) -> usize {
    let x = if right { image.width() - 3 } else { 2 };
    let y = if bottom { image.height() - 3 } else { 2 };
    let pixel = &image.pixels()[((y * image.width() + x) * 3) as usize..][..3];
    pixel.iter().position(|&value| value > 128).map_or(0, |channel| channel + 1)
}

#[test]
fn all_exif_orientations_are_undone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("photo.jpg");
    // The corners (top left, top right, bottom left, bottom right) after turning upright, from the Exif standard's
    // definition of where the stored first row and first column belong.
    let upright = [
        (1, [0, 1, 2, 3]),
        (2, [1, 0, 3, 2]),
        (3, [3, 2, 1, 0]),
        (4, [2, 3, 0, 1]),
        (5, [0, 2, 1, 3]),
        (6, [2, 0, 3, 1]),
        (7, [3, 1, 2, 0]),
        (8, [1, 3, 0, 2]),
        (9, [0, 1, 2, 3]),
    ];
    for (orientation, corners) in upright {
        fs::write(&path, quarters_jpeg(orientation)).unwrap();
        let image = Image::open(&path).unwrap();
        let size = if (5..=8).contains(&orientation) { (16, 32) } else { (32, 16) };
        assert_eq!((image.width(), image.height()), size, "orientation {orientation}");
        let seen = [(false, false), (true, false), (false, true), (true, true)].map(|(r, b)| corner(&image, r, b));
        assert_eq!(seen, corners, "orientation {orientation}");
    }
}

#[test]
fn every_pixel_format_becomes_rgb() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image.png");
    let open = |bytes: &[u8], kind: image::ColorType| {
        image::save_buffer(&path, bytes, 1, 2, kind).unwrap();
        Image::open(&path).unwrap().pixels().to_vec()
    };
    assert_eq!(open(&[7, 200], image::ColorType::L8), [7, 7, 7, 200, 200, 200]);
    assert_eq!(open(&[7, 0, 200, 255], image::ColorType::La8), [7, 7, 7, 200, 200, 200]);
    assert_eq!(open(&[1, 2, 3, 0, 4, 5, 6, 255], image::ColorType::Rgba8), [1, 2, 3, 4, 5, 6]);
    let sixteen: Vec<u8> = [257u16 * 9, 65535].iter().flat_map(|value| value.to_ne_bytes()).collect();
    assert_eq!(open(&sixteen, image::ColorType::L16), [9, 9, 9, 255, 255, 255]);
}

#[test]
fn the_content_decides_over_the_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("real.png");
    save(&path, &noise(5, 4));
    fs::rename(&path, dir.path().join("called.jpg")).unwrap();
    assert_eq!(Image::open(&dir.path().join("called.jpg")).unwrap(), noise(5, 4));
}

/// A PNG that has a valid header of this size and next to no data.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        let body = [kind, data].concat();
        png.extend(&body);
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        png.extend(crc.sum().to_be_bytes());
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(b"IHDR", &[size, vec![8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
    chunk(b"IEND", &[]);
    png
}

#[test]
fn bombs_and_damaged_files_are_errors_that_name_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("photo.jpg");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        match Image::open(&path) {
            Err(error @ Error::File { .. }) => error.to_string(),
            other => panic!("expected Error::File, got {other:?}"),
        }
    };
    for (width, height) in [(60_000, 60_000), (30_000, 30_000), (u32::MAX, 1), (0, 5)] {
        assert_mentions(&open(&png_header(width, height)), &["photo.jpg"]);
    }
    assert_mentions(&open(&png_header(30_000, 30_000)), &["30000 x 30000"]);
    assert_mentions(&open(&png_header(100, 100)), &["photo.jpg"]);

    let jpeg = quarters_jpeg(1);
    // A header that claims 65,535 lines; the frame header starts with FF C0, length, precision, then the height.
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let mut tall = jpeg.clone();
    tall[frame + 5..frame + 7].copy_from_slice(&[0xff, 0xff]);
    assert_mentions(&open(&tall), &["photo.jpg"]);
    for length in [0, 1, 2, 3, 20, jpeg.len() / 2] {
        assert_mentions(&open(&jpeg[..length]), &["photo.jpg"]);
    }
    assert_mentions(&open(&jpeg[..jpeg.len() / 2]), &["cut short"]);
    assert_mentions(&open(b"no picture at all"), &["photo.jpg", "no picture"]);
    assert!(matches!(Image::open(&dir.path().join("missing.png")), Err(Error::Io { .. })));
    assert_mentions(&refused(Image::open(dir.path())), &["not a regular file"]);
}

#[test]
fn garbled_photos_never_panic() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("photo.jpg");
    let jpeg = quarters_jpeg(6);
    let png = dir.path().join("noise.png");
    save(&png, &noise(9, 9));
    let png = fs::read(png).unwrap();
    let mut state = 1u32;
    let mut random = |bound: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % bound
    };
    for round in 0..300 {
        let mut bytes = if round % 2 == 0 { jpeg.clone() } else { png.clone() };
        for _ in 0..4 {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        fs::write(&path, bytes).unwrap();
        if let Err(error) = Image::open(&path) {
            assert_mentions(&error.to_string(), &["photo.jpg"]);
        }
    }
}

// Resizing. The expected values are Pillow 13.0.0's: Image.fromarray(noise).resize(size, Image.BICUBIC), and BILINEAR.

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

#[test]
fn resizing_equals_pillow() {
    let cases = [
        (
            [5, 4, 9, 7],
            "3464d43e84ba4fb9874789614341526f53978b68ad6e53315c4600489c9655a2966eaa926a986a607f4a6a859c7883c38a5c5392471c6d\
             ed3080c85ca189a5a0ac7d8be74465d49e63a7dcb76b91e74c65a18d3ea070699a42b57a97a460fe738dba65b86d73b865afb665cdb01a\
             6ea112877f0db24d71b833d89e9f803aeb3317a667a97a87f8461d8e5323896a2f826543855657884c5373565c608b905da8ae5a05289e\
             2534895e4865762a656e0c77193c980078927da92fc8c200",
        ),
        (
            [23, 17, 6, 5],
            "80916c916b6a918679a98f839b6a685e815884a57f8da0899b7287a277909c7e9c788378908c948f96877b88958866687d95796a92818a\
             80ab93798a96778e777d5e728284686a80898b6a7272939986907170918a686d837988",
        ),
        (
            [7, 3, 3, 8],
            "2d146a82bd6241f03d34266484ae6643e44b45525489847146c5725c8b418f537d4e9fa169ae468d4d7b5f91ad6dbd618371697c9a976e\
             c4787b915a92a4816fc980789c559aa77a",
        ),
        ([1, 1, 3, 2], "a2bb8ba2bb8ba2bb8ba2bb8ba2bb8ba2bb8b"),
        (
            [3, 30, 4, 6], // Rows first.
            "7b6a876da28b6f9d687f60339b76ae957c8c7d764e62691c5f41838f629897909674b07da84da6ac68839c7a748277827d9f968da27991\
             8b708868823ab273688e797d6f7d6a697d",
        ),
    ];
    for ([width, height, to_width, to_height], expected) in cases {
        let resized = noise(width, height).resize(to_width, to_height, Interpolation::Bicubic).unwrap();
        assert_eq!(resized.pixels(), hex(expected), "{width} x {height} to {to_width} x {to_height}");
    }
    let hashes = [
        ([8, 8, 224, 224], 0xf979_668e_4adc_e7d4, 0x5625_1826_3bcd_bed9),
        ([32, 32, 224, 224], 0xda28_d7f4_dff2_7c7f, 0xae13_cd13_5c6f_7f7c),
        ([37, 53, 17, 91], 0xead1_e231_5a4a_3aac, 0xdcdb_663c_f0f8_e940),
        ([640, 481, 256, 192], 0x9b10_caea_69a3_c0b7, 0x4d56_03bb_e524_01a5),
        ([1000, 7, 33, 7], 0xde70_9f95_fd11_09e7, 0x379c_5661_49d6_14e6),
        ([31, 17, 31, 200], 0x6c26_0cf6_4b25_51fd, 0x9150_4e40_fae8_b983),
        ([33, 1000, 40, 100], 0x269f_22fb_dd20_ee06, 0x4d30_ad25_2cd6_14f4), // Rows first.
    ];
    for ([width, height, to_width, to_height], bicubic, bilinear) in hashes {
        for (filter, expected) in [(Interpolation::Bicubic, bicubic), (Interpolation::Bilinear, bilinear)] {
            let resized = noise(width, height).resize(to_width, to_height, filter).unwrap();
            let what = format!("{width} x {height} to {to_width} x {to_height}, {filter:?}");
            assert_eq!(fnv(resized.pixels()), expected, "{what}");
        }
    }
}

/// As torchvision does it: resize(short side), or resize(both sides), then crop in the middle.
#[test]
fn the_evaluation_crop_equals_pillow() {
    let hashes = [
        ([50, 37, 32], 0.875, 0x95c7_1d13_f1e1_970b),
        ([37, 80, 24], 0.9, 0xd8b5_729b_5b7c_edcc),
        ([300, 200, 64], 1.0, 0x85a4_8de1_6d4d_ccf6),
        ([5, 9, 28], 0.875, 0x356d_c643_18a8_7247),
    ]
    .map(|(sizes, fraction, expected)| (sizes, fraction, Interpolation::Bicubic, expected));
    let bilinear = [([50, 37, 32], 0.875, 0xb8d7_44a9_4efd_6534), ([300, 200, 64], 1.0, 0xf38c_29ae_2455_437b)]
        .map(|(sizes, fraction, expected)| (sizes, fraction, Interpolation::Bilinear, expected));
    for ([width, height, size], fraction, interpolation, expected) in hashes.into_iter().chain(bilinear) {
        let transform = Transform { interpolation, ..Transform::new(size, Crop::Center { fraction }) };
        let mut sample = vec![0; transform.sample_bytes()];
        transform.apply(&noise(width, height), Key { seed: 1, epoch: 2, sample: 3 }, &mut sample).unwrap();
        assert_eq!(fnv(&sample), expected, "{width} x {height} to {size} at {fraction}");
    }
    let squashed = [
        ([50, 37, 32], 0.875, 0x756d_5fea_d6d0_cb9e),
        ([37, 80, 24], 0.9, 0xabe2_ad6d_e4ef_d9e7),
        ([300, 200, 64], 1.0, 0xac27_2c38_f7ad_1842),
        ([5, 9, 28], 0.875, 0x5275_edee_0bca_9dcc),
    ];
    for ([width, height, size], fraction, expected) in squashed {
        let sample = apply(Transform::new(size, Crop::Squash { fraction }), &noise(width, height), 3);
        assert_eq!(fnv(&sample), expected, "{width} x {height} squashed to {size} at {fraction}");
    }
}

/// What checkpoints say of the crop that evaluation makes is that crop.
#[test]
fn crops_of_evaluation_are_told_and_made_again() {
    for mode in [CropMode::Center, CropMode::Squash] {
        for fraction in [0.5, 1.0] {
            assert_eq!(Crop::evaluation(mode, fraction).mode_and_fraction(), (mode, fraction));
        }
    }
    assert_eq!(Crop::Whole.mode_and_fraction(), (CropMode::Squash, 1.0));
    let picture = noise(9, 5);
    let [whole, squashed] =
        [Crop::Whole, Crop::Squash { fraction: 1.0 }].map(|crop| apply(Transform::new(6, crop), &picture, 0));
    assert_eq!(whole, squashed);
}

#[test]
fn resizing_refuses_sizes_and_windows_that_make_no_sense() {
    use wgrad::data::Window;
    let image = noise(6, 4);
    assert_mentions(&refused(image.resize(0, 3, Interpolation::Bicubic)), &["width"]);
    assert_mentions(&refused(image.resize(3, 40_000, Interpolation::Bicubic)), &["height"]);
    let window = |left, top, width, height| {
        refused(image.resize_window(Window { left, top, width, height }, 2, 2, Interpolation::Bicubic))
    };
    assert_mentions(&window(1.0, 0.0, 5.5, 4.0), &["window width"]);
    assert_mentions(&window(-0.1, 0.0, 2.0, 4.0), &["window width"]);
    assert_mentions(&window(0.0, f64::NAN, 2.0, 4.0), &["window height"]);
    assert_mentions(&window(0.0, 0.0, 2.0, 0.0), &["window height"]);
    assert_mentions(&window(0.0, 0.0, 2.0, f64::INFINITY), &["window height"]);
}

// Augmentation.

pub fn apply(transform: Transform, image: &Image<'_>, sample: u32) -> Vec<u8> {
    let mut out = vec![0; transform.sample_bytes()];
    transform.apply(image, Key { seed: 11, epoch: 3, sample }, &mut out).unwrap();
    out
}

#[test]
fn random_crops_are_windows_of_the_resized_photo() {
    let image = noise(40, 30);
    let transform = Transform { flip: true, ..Transform::new(12, Crop::Random { fraction: 0.8 }) };
    let resized = image.resize(20, 15, Interpolation::Bicubic).unwrap();
    let mut windows = Vec::new();
    for (left, top) in (0..=8).flat_map(|left| (0..=3).map(move |top| (left, top))) {
        let window = cut(&resized, left, top, 12);
        windows.push(channels_first(&window));
        windows.push(channels_first(&mirror(&window)));
    }
    let mut seen = vec![0; windows.len()];
    for sample in 0..2000 {
        let made = apply(transform, &image, sample);
        seen[windows.iter().position(|window| *window == made).expect("a window of the photo")] += 1;
    }
    // 2,000 draws of 72: 28 each, with a deviation of 5.
    assert!(seen.iter().all(|&count| (5..60).contains(&count)), "{seen:?}");
}

#[test]
fn padded_crops_are_windows_of_the_padded_picture() {
    let image = noise(6, 6);
    let pixel = |x: i64, y: i64| image.pixels()[(y * 6 + x) as usize * 3..][..3].to_vec();
    let inside = |x: i64| (0..6).contains(&x);
    let reflected = |x: i64| [2, 1, 0, 1, 2, 3, 4, 5, 4, 3][(x + 2) as usize];
    for padding in [Padding::Zero, Padding::Reflect] {
        let mut windows = Vec::new();
        for (left, top) in (-2..=2).flat_map(|left| (-2..=2).map(move |top| (left, top))) {
            let at = |y: i64, x: i64| match padding {
                Padding::Zero if inside(x) && inside(y) => pixel(x, y),
                Padding::Zero => vec![0; 3],
                Padding::Reflect => pixel(reflected(x), reflected(y)),
            };
            let pixels: Vec<u8> = (top..top + 6).flat_map(|y| (left..left + 6).flat_map(move |x| at(y, x))).collect();
            windows.push(channels_first(&Image::new(6, 6, pixels).unwrap()));
        }
        let transform = Transform::new(6, Crop::Pad { pixels: 2, padding });
        let mut seen = vec![0; windows.len()];
        for sample in 0..1000 {
            let made = apply(transform, &image, sample);
            seen[windows.iter().position(|window| *window == made).expect("a window of the padded picture")] += 1;
        }
        assert!(seen.iter().all(|&count| (10..80).contains(&count)), "{padding:?}: {seen:?}");
    }
}

#[test]
fn padding_wider_than_the_picture_is_possible() {
    for (width, height) in [(1, 1), (2, 5)] {
        for padding in [Padding::Zero, Padding::Reflect] {
            let transform = Transform::new(3, Crop::Pad { pixels: 20, padding });
            (0..50).for_each(|sample| assert_eq!(apply(transform, &noise(width, height), sample).len(), 27));
        }
    }
}

#[test]
fn augmentation_depends_on_the_whole_key_and_evaluation_on_nothing() {
    let image = noise(40, 40);
    let random = Transform { flip: true, ..Transform::new(8, Crop::Random { fraction: 0.3 }) };
    let make = |transform: Transform, key: Key| {
        let mut out = vec![0; transform.sample_bytes()];
        transform.apply(&image, key, &mut out).unwrap();
        out
    };
    let key = Key { seed: 1, epoch: 2, sample: 3 };
    let others = [Key { seed: 2, ..key }, Key { epoch: 3, ..key }, Key { sample: 4, ..key }];
    assert_eq!(make(random, key), make(random, key));
    assert!(others.iter().all(|&other| make(random, other) != make(random, key)));
    for crop in [Crop::Whole, Crop::Center { fraction: 0.5 }, Crop::Squash { fraction: 0.5 }] {
        let fixed = Transform::new(8, crop);
        assert!(others.iter().all(|&other| make(fixed, other) == make(fixed, key)));
    }
    // Pinned, so that a stored run can be continued by a later version.
    assert_eq!(fnv(&make(random, key)), 0xb5df_6599_7615_379a);
}

#[test]
fn settings_out_of_range_are_named() {
    let good = Transform::new(8, Crop::Whole);
    assert_mentions(&refused(Transform { size: 0, ..good }.check()), &["size"]);
    assert_mentions(&refused(Transform { size: 5000, ..good }.check()), &["size"]);
    for fraction in [0.0, -1.0, 1.5, f64::NAN] {
        assert_mentions(&refused(Transform { crop: Crop::Center { fraction }, ..good }.check()), &["fraction"]);
        assert_mentions(&refused(Transform { crop: Crop::Squash { fraction }, ..good }.check()), &["fraction"]);
    }
    let wide = Crop::Pad { pixels: 5000, padding: Padding::Zero };
    assert_mentions(&refused(Transform { crop: wide, ..good }.check()), &["pixels"]);
    let key = Key { seed: 0, epoch: 0, sample: 0 };
    assert_mentions(&refused(good.apply(&noise(3, 3), key, &mut [0; 5])), &["sample", "192 bytes"]);
}

// The loader.

const MOVING: Transform =
    Transform { flip: true, ..Transform::new(8, Crop::Pad { pixels: 2, padding: Padding::Reflect }) };

/// A loader whose pictures are made on one thread.
pub fn single(split: &Split, transform: Transform, options: LoaderOptions) -> Loader<ImageSource> {
    let pictures = ImageSource::new(split, transform, ImageOptions { threads: 1, ..Default::default() });
    Loader::new(pictures.unwrap(), options).unwrap()
}

fn loader(split: &Split, options: LoaderOptions) -> Loader<ImageSource> {
    with(split, ImageOptions::default(), options)
}

fn with(split: &Split, pictures: ImageOptions, options: LoaderOptions) -> Loader<ImageSource> {
    Loader::new(ImageSource::new(split, MOVING, pictures).unwrap(), options).unwrap()
}

fn collect(loader: &Loader<ImageSource>, from: Position, count: usize) -> Vec<ImageBatch> {
    loader.batches_from(from).unwrap().take(count).map(|batch| batch.unwrap()).collect()
}

#[test]
fn batches_do_not_depend_on_threads_or_prefetch() {
    let split = noise_split(50, 8, 7);
    let make = |threads, prefetch| {
        let options = LoaderOptions { prefetch, ..LoaderOptions::training(8, 3) };
        let loader = with(&split, ImageOptions { threads, ..Default::default() }, options);
        collect(&loader, Position::default(), 20)
    };
    let expected = make(1, 0);
    for (threads, prefetch) in [(2, 1), (5, 4), (0, 2)] {
        assert_eq!(make(threads, prefetch), expected);
    }
    // Pinned, so that a stored run can be continued by a later version.
    assert_eq!(expected[7].indices, [37, 24, 29, 48, 39, 8, 47, 11]);
}

#[test]
fn a_run_continues_at_any_position() {
    let split = noise_split(30, 8, 7);
    let loader = loader(&split, LoaderOptions::training(8, 3));
    assert_eq!(loader.batches_per_epoch(), 3);
    let all = collect(&loader, Position::default(), 10);
    for (step, expected) in all.iter().enumerate() {
        assert_eq!(loader.position(step as u64), expected.position);
        assert_eq!(&collect(&loader, expected.position, 1)[0], expected);
    }
    assert_eq!(collect(&loader, Position { epoch: 1, batch: 1 }, 6), all[4..]);
    assert_mentions(&refused(loader.batches_from(Position { epoch: 0, batch: 3 })), &["position.batch", "below 3"]);
}

#[test]
fn every_epoch_is_another_order_of_the_same_samples() {
    let split = noise_split(40, 8, 7);
    let loader = loader(&split, LoaderOptions::training(8, 3));
    let orders: Vec<Vec<u32>> =
        (0..3).map(|epoch| loader.epoch(epoch).unwrap().flat_map(|batch| batch.unwrap().indices).collect()).collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..40));
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
}

#[test]
fn evaluation_sees_every_sample_once_in_order() {
    let split = noise_split(21, 8, 7);
    let whole = Transform::new(8, Crop::Whole);
    let pictures = ImageSource::new(&split, whole, ImageOptions::default()).unwrap();
    let loader = Loader::new(pictures, LoaderOptions::evaluation(8)).unwrap();
    let batches: Vec<_> = loader.epoch(0).unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [8, 8, 5]);
    assert!(batches.iter().flat_map(|batch| &batch.indices).copied().eq(0..21));
    assert!(batches.iter().flat_map(|batch| &batch.labels).eq(split.labels()));
    let images: Vec<u8> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
    let expected = (0..21).flat_map(|sample| channels_first(&split.image(sample).unwrap()));
    assert!(images.into_iter().eq(expected));
}

/// A folder of ten readable photos and the ones called "bad", which are not.
fn partly_unreadable(dir: &Path) -> Split {
    photo_folder(dir, &["a", "b"], 5);
    let jpeg = quarters_jpeg(1);
    fs::write(dir.join("a/bad1.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(dir.join("b/bad2.png"), "no image").unwrap();
    fs::write(dir.join("b/bad3.png"), png_header(60_000, 60_000)).unwrap();
    let none = FolderOptions { validation: 0.0, test: 0.0, ..Default::default() };
    image_folder(dir, none).unwrap().train
}

#[test]
fn unreadable_photos_are_replaced_and_reported_in_training() {
    let dir = TempDir::new().unwrap();
    let split = partly_unreadable(dir.path());
    let bad = |sample: u32| split.name(sample).contains("bad");
    let loader = loader(&split, LoaderOptions::training(4, 9));
    let all = collect(&loader, Position::default(), 12);
    let order: Vec<u32> = {
        // The same order without a file to read.
        let readable = noise_split(13, 8, 2);
        collect(&self::loader(&readable, LoaderOptions::training(13, 9)), Position::default(), 1).remove(0).indices
    };
    for batch in &all {
        assert_eq!((batch.indices.len(), batch.images.len()), (4, 4 * MOVING.sample_bytes()));
        assert!(!batch.indices.iter().any(|&sample| bad(sample)));
        let mut distinct = batch.indices.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "no sample twice in a batch");
        assert!(batch.indices.iter().zip(&batch.labels).all(|(&at, &label)| split.labels()[at as usize] == label));
    }
    // A bad one's place is taken by the next good ones after the batch.
    for (number, batch) in all[..3].iter().enumerate() {
        let own = &order[number * 4..number * 4 + 4];
        let mut next = order.iter().cycle().skip(number * 4 + 4).copied().filter(|&sample| !bad(sample));
        let expected: Vec<u32> =
            own.iter().map(|&sample| if bad(sample) { next.next().unwrap() } else { sample }).collect();
        assert_eq!(batch.indices, expected);
    }
    assert_eq!(collect(&loader, all[5].position, 1)[0], all[5]);

    let skipped = loader.source().skipped();
    assert_eq!(skipped.len(), 3);
    assert!(skipped.iter().all(|skipped| bad(skipped.sample) && skipped.name == split.name(skipped.sample)));
    assert_mentions(&skipped[0].reason, &["bad1.jpg", "cut short"]);
}

#[test]
fn unreadable_photos_are_left_out_in_evaluation() {
    let dir = TempDir::new().unwrap();
    let split = partly_unreadable(dir.path());
    let loader = loader(&split, LoaderOptions::evaluation(3));
    let batches: Vec<_> = loader.epoch(0).unwrap().map(|batch| batch.unwrap()).collect();
    let seen: Vec<u32> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
    let readable: Vec<u32> = (0..13).filter(|&sample| !split.name(sample).contains("bad")).collect();
    assert_eq!(seen, readable);
    assert!(batches.iter().all(|batch| batch.images.len() == batch.labels.len() * MOVING.sample_bytes()));
    assert_eq!(loader.source().skipped().len(), 3);
}

#[test]
fn strict_loaders_pass_the_error_on() {
    let dir = TempDir::new().unwrap();
    let split = partly_unreadable(dir.path());
    let strict = ImageOptions { strict: true, ..Default::default() };
    let results: Vec<_> = with(&split, strict, LoaderOptions::evaluation(4)).epoch(0).unwrap().collect();
    // Sample 5 is the first bad one: the first batch is whole, the second is the error, and that is all.
    assert_eq!(results.len(), 2);
    assert!(results[0].is_ok());
    assert!(matches!(&results[1], Err(Error::File { path, .. }) if path.ends_with("a/bad1.jpg")), "{:?}", results[1]);
}

#[test]
fn nothing_readable_is_an_error_not_an_endless_search() {
    let dir = TempDir::new().unwrap();
    let files: Vec<PathBuf> = (0..6).map(|n| dir.path().join(format!("missing{n}.png"))).collect();
    let split = Split::from_files(files, vec![0; 6]).unwrap();
    let training = loader(&split, LoaderOptions::training(2, 0));
    let results: Vec<_> = training.batches_from(Position::default()).unwrap().collect();
    assert_eq!(results.len(), 1);
    assert_mentions(&refused(results.into_iter().next().unwrap()), &["batch_size", "readable"]);
    let evaluation = loader(&split, LoaderOptions::evaluation(4));
    let results: Vec<_> = evaluation.epoch(0).unwrap().collect();
    assert_eq!(results.len(), 1);
    assert_mentions(&refused(results.into_iter().next().unwrap()), &["readable"]);
    assert_eq!(evaluation.source().skipped().len(), 6);
}

#[test]
fn loaders_can_be_dropped_at_any_time() {
    let split = noise_split(64, 8, 7);
    let loader = loader(&split, LoaderOptions { prefetch: 1, ..LoaderOptions::training(16, 3) });
    for taken in 0..6 {
        let mut batches = loader.batches_from(Position::default()).unwrap();
        (0..taken).for_each(|_| assert!(batches.next().unwrap().is_ok()));
        // Dropping waits for the thread: if that did not end, neither would this test.
    }
    // The batches outlive their loader.
    let mut batches = loader.batches_from(Position::default()).unwrap();
    drop(loader);
    assert!(batches.by_ref().take(10).all(|batch| batch.is_ok()));
    assert!(batches.waited() > std::time::Duration::ZERO);
}

#[test]
fn loaders_refuse_settings_that_make_no_sense() {
    let split = noise_split(10, 8, 7);
    let good = LoaderOptions::training(4, 0);
    let source = |split, options| ImageSource::new(split, MOVING, options);
    let refuse = |options| refused(Loader::new(source(&split, ImageOptions::default()).unwrap(), options));
    assert_mentions(&refuse(LoaderOptions { batch_size: 0, ..good }), &["batch_size"]);
    assert_mentions(&refuse(LoaderOptions { batch_size: usize::MAX, ..good }), &["batch_size"]);
    assert_mentions(&refuse(LoaderOptions { batch_size: 11, ..good }), &["samples", "at least 11", "10"]);
    assert_mentions(&refuse(LoaderOptions { prefetch: 1_000_000, ..good }), &["prefetch"]);
    let threads = ImageOptions { threads: 1_000_000, ..Default::default() };
    assert_mentions(&refused(source(&split, threads)), &["threads"]);
    let empty = source(&split.subset(&[]).unwrap(), ImageOptions::default()).unwrap();
    assert_mentions(&refused(Loader::new(empty, LoaderOptions::evaluation(4))), &["at least 1"]);
}
