//! Photos of every kind, folders of them, CIFAR.

use std::fs;
use std::io::Cursor;
use std::path::{Component, Path};

use image::{ExtendedColorType, ImageFormat};
use wgrad::Error;
use wgrad::data::{FolderOptions, Image, cifar10, cifar100, image_folder, list_pictures};

use super::{Read, Reader, Set};

/// 9 × 7 pixels, encoded by the decoders' own counterparts.
fn encoded(format: ImageFormat, color: ExtendedColorType) -> Vec<u8> {
    let (width, height) = (9, 7);
    let bytes = width as usize * height as usize * usize::from(color.bits_per_pixel()) / 8;
    let pixels: Vec<u8> = (0..bytes).map(|i| (i * 37 % 251) as u8).collect();
    let mut out = Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut out, &pixels, width, height, color, format).unwrap();
    out.into_inner()
}

/// A segment of Exif that says how a JPEG is turned.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let exif: [u8; 32] = [
        b'E',
        b'x',
        b'i',
        b'f',
        0,
        0,
        b'M',
        b'M',
        0,
        42,
        0,
        0,
        0,
        8,
        0,
        1,
        1,
        0x12,
        0,
        3,
        0,
        0,
        0,
        1,
        0,
        orientation,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    [&jpeg[..2], &[0xff, 0xe1, 0, 34], &exif, &jpeg[2..]].concat()
}

fn photos() -> Reader {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|ending| ending != "py"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    let jpeg = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/sampling_422.jpg")).unwrap();
    files.push(("turned.jpg".to_owned(), turned(&jpeg, 6)));
    use ExtendedColorType::{L8, L16, La8, Rgb8, Rgb16, Rgba8, Rgba16};
    for (name, format, color) in [
        ("grey.png", ImageFormat::Png, L8),
        ("grey16.png", ImageFormat::Png, L16),
        ("grey_alpha.png", ImageFormat::Png, La8),
        ("rgb16.png", ImageFormat::Png, Rgb16),
        ("rgba.png", ImageFormat::Png, Rgba8),
        ("rgba16.png", ImageFormat::Png, Rgba16),
        ("lossless.webp", ImageFormat::WebP, Rgba8),
        ("rgba.gif", ImageFormat::Gif, Rgba8),
        ("rgb.bmp", ImageFormat::Bmp, Rgb8),
        ("grey.tga", ImageFormat::Tga, L8),
        ("rgba.qoi", ImageFormat::Qoi, Rgba8),
        ("rgb.ppm", ImageFormat::Pnm, Rgb8),
        ("rgb.tif", ImageFormat::Tiff, Rgb8),
        ("rgb16.tif", ImageFormat::Tiff, Rgb16),
    ] {
        files.push((name.to_owned(), encoded(format, color)));
    }
    files.push(("text.pgm".to_owned(), b"P2\n# grey\n3 2\n9\n0 1 2\n7 8 9\n".to_vec()));
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let sets = files.into_iter().map(|file| Set::new([file], &[])).collect();
    let read = move |folder: &Path, set: usize| {
        let image = Image::open(&folder.join(&names[set]))?;
        assert_eq!(image.pixels().len(), image.width() as usize * image.height() as usize * 3);
        Ok(())
    };
    // A small file may rightly show a picture that is large and plain.
    Reader { name: "photos", share: 200, sets, read: Box::new(read), memory: [1 << 30, 0] }
}

/// Makes the folder that lines tell of, each "f NAME", "d NAME" or "l NAME TARGET", as far as they lead nowhere else.
fn build(root: &Path, lines: &str) {
    let picture = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/palette.png")).unwrap();
    let is_within = |name: &str| {
        let mut parts = Path::new(name).components();
        !name.is_empty() && !name.contains('\0') && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    for line in lines.lines().take(100) {
        let (kind, name) = line.split_at_checked(2).unwrap_or_default();
        let (name, target) = name.split_once(" -> ").unwrap_or((name, "."));
        let path = root.join(name);
        if !is_within(name) || path.parent().is_none_or(|parent| fs::create_dir_all(parent).is_err()) {
            continue;
        }
        // Where a line cannot be followed, the folder is without it.
        let _ = match kind {
            "d " => fs::create_dir_all(&path),
            "e " => fs::write(&path, b""),
            #[cfg(unix)]
            "l " if !target.starts_with('/') && !target.contains("..") => std::os::unix::fs::symlink(target, &path),
            #[cfg(unix)]
            "o " => std::os::unix::fs::symlink(root, &path),
            _ => fs::write(&path, &picture),
        };
    }
}

const TREES: [&str; 3] = [
    "f cat/a.png\nf cat/b.png\nf cat/c.png\nf cat/more/d.png\nf dog/a.png\nf dog/b.PNG\nf dog/c.png\n\
     l bird -> dog\nd empty\ne dog/none.jpg\nf dog/film.mov\no cat/up\n",
    "f train/10/a.png\nf train/2/a.png\nf val/10/a.png\nf valid/2/a.png\nf test/2/a.png\nf notes.txt\n",
    "f Training/\u{e9}/a.png\nf training/e\u{301}/a.png\nf Eval/x/a.png\nl loop -> loop\nf runs/best.safetensors\n",
];

fn folders() -> Reader {
    let sets = TREES.map(|tree| Set::new([("tree.txt", tree.as_bytes().to_vec())], &[])).into();
    let read = |folder: &Path, _| {
        let path = folder.join("tree.txt");
        let lines = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let root = tempfile::tempdir().map_err(|e| Error::io(&path, e))?;
        build(root.path(), &String::from_utf8_lossy(&lines));
        let listing = list_pictures(root.path());
        assert!(listing.pictures.len() <= 200, "{} pictures of a hundred", listing.pictures.len());
        let data = image_folder(root.path(), FolderOptions::default())?;
        data.train.probe(3);
        for split in [&data.train, &data.validation, &data.test] {
            assert!(split.labels().iter().all(|&label| (label as usize) < data.class_names.len()));
        }
        Ok(())
    };
    Reader { name: "folders of pictures", share: 30, sets, read: Box::new(read), memory: [8 << 20, 512] }
}

/// Two records a file.
fn cifar() -> Vec<Reader> {
    let records = |labels: [&[u8]; 2]| {
        let record = |label: &[u8]| [label, &[7; 3072]].concat();
        labels.map(record).concat()
    };
    let names = |prefix: &str, count: usize| (0..count).map(|i| format!("{prefix}{i}\n")).collect::<String>().into();
    let ten = [
        ("data_batch_1.bin", records([&[0], &[9]])),
        ("data_batch_2.bin", records([&[3], &[3]])),
        ("test_batch.bin", records([&[4], &[5]])),
        ("batches.meta.txt", names("c", 10)),
    ];
    let hundred = [
        ("train.bin", records([&[0, 99], &[19, 4]])),
        ("test.bin", records([&[3, 3], &[3, 4]])),
        ("fine_label_names.txt", names("f", 100)),
    ];
    let checked = |data: wgrad::data::DataSet| {
        let classes = data.class_names.len();
        assert!(data.train.labels().iter().all(|&label| (label as usize) < classes));
    };
    let of_ten = move |folder: &Path, _| cifar10(folder).map(checked);
    let of_hundred = move |folder: &Path, _| cifar100(folder).map(checked);
    let reader = |name, set, read: Read| Reader { name, share: 25, sets: vec![set], read, memory: [1 << 20, 64] };
    vec![
        reader("CIFAR-10", Set::new(ten, &[]), Box::new(of_ten)),
        reader("CIFAR-100", Set::new(hundred, &[]), Box::new(of_hundred)),
    ]
}

pub fn readers() -> Vec<Reader> {
    [photos(), folders()].into_iter().chain(cifar()).collect()
}
