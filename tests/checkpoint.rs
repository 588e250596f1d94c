//! Checkpoints: round trips, hostile files, replacing a file, matching with a model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::allocation::peak;
use proptest::prelude::*;
use safetensors::SafeTensors;
use wgrad::Error;
use wgrad::checkpoint::{
    Checkpoint, Found, HostTensor, MatchOptions, SkippedTensor, match_parameters, read, read_bytes, to_bytes, write,
};

type Tensors = BTreeMap<String, HostTensor>;
type Texts = BTreeMap<String, String>;

fn tensor(shape: &[usize], data: &[f32]) -> HostTensor {
    HostTensor { shape: shape.to_vec(), data: data.to_vec() }
}

fn small() -> (Tensors, Texts) {
    let tensors = [
        ("head.weight", tensor(&[2, 3], &[1.0, -2.5, 3.0, f32::MIN_POSITIVE, -0.0, f32::INFINITY])),
        ("head.bias", tensor(&[2], &[0.5, 1e-42])),
        ("scale", tensor(&[], &[7.0])),
        ("empty", tensor(&[0, 4], &[])),
    ];
    let texts = [("step", "12"), ("note", "quotes \" and \\ and é and \n")];
    (
        tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(),
        texts.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect(),
    )
}

/// A file of that header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn one_tensor(dtype: &str, shape: &str, offsets: (usize, usize)) -> String {
    format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{},{}]}}}}"#, offsets.0, offsets.1)
}

/// The offset and text of the fault found in `bytes`.
fn fault(bytes: &[u8]) -> (u64, String) {
    match read_bytes(bytes, "hostile.safetensors") {
        Err(Error::File { path, offset: Some(offset), what }) => {
            assert_eq!(path, Path::new("hostile.safetensors"));
            assert!(offset <= bytes.len() as u64, "points beyond the file: {offset}");
            (offset, what)
        }
        other => panic!("expected a faulty file, got {other:?}"),
    }
}

/// [`read_bytes`], which must not take more memory than the file warrants: f16 doubles, and names and shapes of a few
/// characters become entries of maps.
fn read_within_bounds(bytes: &[u8]) -> wgrad::Result<Checkpoint> {
    let (result, held) = peak(|| read_bytes(bytes, "hostile.safetensors"));
    assert!(held <= 64 * 1024 + 32 * bytes.len(), "{held} bytes for a file of {}", bytes.len());
    result
}

fn bits(checkpoint: &Tensors) -> Vec<(&String, &Vec<usize>, Vec<u32>)> {
    checkpoint.iter().map(|(name, t)| (name, &t.shape, t.data.iter().map(|v| v.to_bits()).collect())).collect()
}

// Round trips.

#[test]
fn a_file_comes_back_bit_for_bit() {
    let (mut tensors, texts) = small();
    // NaNs with payloads, and more values than are converted at a time.
    let nans = [0x7fc0_0001, 0xff80_0001, 0x7f80_0001].map(f32::from_bits);
    tensors.insert("nan".to_owned(), tensor(&[3], &nans));
    let long: Vec<f32> = (0..40_001).map(|i| i as f32 * 0.1).collect();
    tensors.insert("long".to_owned(), tensor(&[40_001], &long));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors, &texts).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(bits(&back.tensors), bits(&tensors));
    assert_eq!(back.metadata, texts);
    assert!(back.skipped.is_empty());
    assert_eq!(fs::read(&path).unwrap(), to_bytes(&tensors, &texts).unwrap());
}

#[test]
fn nothing_is_a_checkpoint_too() {
    let bytes = to_bytes(&Tensors::new(), &Texts::new()).unwrap();
    assert_eq!(bytes.len() % 8, 0);
    assert_eq!(read_bytes(&bytes, "empty").unwrap(), Checkpoint::default());
}

/// The format's own crate, as other programs use it, reads the file, and writes the same bytes.
#[test]
fn the_bytes_are_those_of_the_reference_implementation() {
    let (tensors, _) = small();
    let texts = Texts::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = to_bytes(&tensors, &texts).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let views = theirs.tensors();
    assert_eq!(views.len(), tensors.len());
    let again = safetensors::serialize(views, Some(texts.into_iter().collect())).unwrap();
    assert_eq!(bytes, again);
}

#[test]
fn half_types_are_widened_and_others_skipped() {
    let header = r#"{"b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},
        "h":{"dtype":"F16","shape":[4],"data_offsets":[6,14]},
        "n":{"dtype":"I64","shape":[],"data_offsets":[14,22]},
        "z":{"dtype":"F32","shape":[1],"data_offsets":[22,26]}}"#;
    let mut data = Vec::new();
    for half in [0x3f80u16, 0xc040, 0x7f80, 0x3c00, 0xc200, 0x0001, 0x7bff] {
        data.extend(half.to_le_bytes());
    }
    data.extend(5i64.to_le_bytes());
    data.extend(9f32.to_le_bytes());
    let checkpoint = read_bytes(&file(header, &data), "halves").unwrap();
    assert_eq!(checkpoint.get("b").unwrap(), &tensor(&[3], &[1.0, -3.0, f32::INFINITY]));
    assert_eq!(checkpoint.get("h").unwrap(), &tensor(&[4], &[1.0, -3.0, 2f32.powi(-24), 65504.0]));
    assert_eq!(checkpoint.get("z").unwrap(), &tensor(&[1], &[9.0]));
    let skipped = SkippedTensor { dtype: "I64".to_owned(), shape: vec![] };
    assert_eq!(checkpoint.skipped, BTreeMap::from([("n".to_owned(), skipped)]));
    let message = checkpoint.get("n").unwrap_err().to_string();
    assert_eq!(message, "parameter n: is I64[] in the checkpoint, which is not read: F32, F64, F16 and BF16 are");
    assert_eq!(checkpoint.get("q").unwrap_err().to_string(), "parameter q: is not in the checkpoint");
}

/// As PyTorch's `copy_` from double to float rounds, but what has no place in f32 is an error.
#[test]
fn doubles_are_rounded() {
    let bytes = |values: &[f64]| {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file(&one_tensor("F64", &format!("[{}]", values.len()), (0, data.len())), &data)
    };
    let values = [0.1, -1e-50, f64::from(f32::MAX), f64::NEG_INFINITY, 1.0 + 2f64.powi(-24), 1.0 + 2f64.powi(-23)];
    let checkpoint = read_bytes(&bytes(&values), "doubles").unwrap();
    let expected = [0.1, -0.0, f32::MAX, f32::NEG_INFINITY, 1.0, 1.0 + f32::EPSILON];
    assert_eq!(checkpoint.get("x").unwrap(), &tensor(&[6], &expected));
    let (offset, what) = fault(&bytes(&[1.0, 1e300]));
    assert!(offset > 8 && what.contains("tensor x has the value 1") && what.contains("beyond what f32"), "{what}");
}

proptest! {
    #[test]
    fn any_content_comes_back(
        content in prop::collection::btree_map(
            ".{0,12}",
            (prop::collection::vec(0usize..4, 0..5), any::<u32>()),
            0..6,
        ),
        texts in prop::collection::btree_map(".{0,12}", ".{0,30}", 0..4),
    ) {
        let tensors: Tensors = content
            .into_iter()
            .map(|(name, (shape, seed))| {
                let numel: usize = shape.iter().product();
                let data = (0..numel as u32).map(|i| f32::from_bits(seed.wrapping_mul(2 * i + 1))).collect();
                (name, HostTensor { shape, data })
            })
            .collect();
        let bytes = to_bytes(&tensors, &texts).unwrap();
        let back = read_bytes(&bytes, "any").unwrap();
        prop_assert_eq!(bits(&back.tensors), bits(&tensors));
        prop_assert_eq!(back.metadata, texts);
        prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
    }
}

// Hostile files.

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let (tensors, texts) = small();
    let bytes = to_bytes(&tensors, &texts).unwrap();
    for length in 0..bytes.len() {
        let (offset, what) = fault(&bytes[..length]);
        assert!(!what.is_empty() && offset <= length as u64);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(fault(&longer), (bytes.len() as u64, "1 bytes follow the last tensor and belong to none".to_owned()));
}

#[test]
fn lies_are_named() {
    let says = |bytes: &[u8], offset: u64, text: &str| {
        let (at, what) = fault(bytes);
        assert!(what.contains(text), "{what}");
        assert_eq!(at, offset, "{what}");
    };
    says(b"", 0, "is 0 bytes long");
    says(&u64::MAX.to_le_bytes(), 0, "18446744073709551615 bytes long, but only 0 follow");
    says(b"PK\x03\x04 a zip archive", 0, "not a safetensors file");

    let header = one_tensor("F32", "[2]", (0, 8));
    let data = 8 + header.len() as u64;
    assert!(read_bytes(&file(&header, &[0; 8]), "good").is_ok());
    says(&file(&header, &[0; 7]), data, "tensor x takes data bytes 0 to 8, but the file holds only 7");
    says(&file(&header, &[0; 9]), data + 8, "1 bytes follow the last tensor");
    says(&file("[]", &[]), 8, "expected an object of tensors");
    says(&file("", &[]), 0, "zeros at its start");
    says(&file(" ", &[]), 8, "EOF");
    says(&file("{}x", &[]), 10, "trailing characters");

    let case = |dtype, shape, offsets| file(&one_tensor(dtype, shape, offsets), &[0; 8]);
    let at = |dtype, shape, offsets| 8 + one_tensor(dtype, shape, offsets).len() as u64;
    for (dtype, shape, offsets, text) in [
        ("F32", "[3]", (0, 8), "x is F32[3], which does not take the 8 bytes"),
        ("F32", "[]", (0, 8), "which does not take the 8 bytes"),
        ("I64", "[2]", (0, 8), "which does not take the 8 bytes"),
        ("F4", "[15]", (0, 8), "which does not take the 8 bytes"),
        ("F32", "[4294967296,4294967296,4294967296]", (0, 8), "which does not take the 8 bytes"),
        ("F32", "[4611686018427387904]", (0, 0), "which does not take the 0 bytes"),
        ("F32", "[2]", (8, 0), "ends at data byte 0, before its start 8"),
        ("F32", "[1]", (4, 8), "leaves a gap: it starts at data byte 4, expected 0"),
        ("F32", "[2]", (0, usize::MAX), "but the file holds only 8"),
    ] {
        says(&case(dtype, shape, offsets), at(dtype, shape, offsets), text);
    }
    for (dtype, shape, text) in [
        ("Q8", "[2]", "unknown variant"),
        ("F32", "[-2]", "invalid value"),
        ("F32", "[99999999999999999999]", "invalid"),
    ] {
        assert!(fault(&case(dtype, shape, (0, 8))).1.contains(text));
    }
}

/// A zip archive's beginning, with the name of its first file.
fn zip(name: &str) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.resize(26, 0);
    bytes.extend([name.len() as u8, 0, 0, 0]);
    [&bytes, name.as_bytes(), &[0; 40]].concat()
}

/// What people pass in a checkpoint's place is named, with what to do about it.
#[test]
fn other_kinds_of_files_are_named() {
    let lfs =
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa2f6b6f4cfc8a75a273a075db317305\nsize 346293852\n";
    let page = b"<!doctype html><html><body>401 Client Error</body></html>";
    let tar = [&[b'a'; 257][..], b"ustar\0", &[0; 249]].concat();
    let large_zip = [zip("model/data.pkl"), vec![0; 70 << 20]].concat();
    for (bytes, kind, remedy) in [
        (&lfs[..], "a pointer of Git LFS", "git lfs pull"),
        (&zip("archive/data.pkl"), "a PyTorch pickle", "safetensors.torch.save_file"),
        // The first bytes, taken for a header's length, are within the file.
        (&large_zip, "a PyTorch pickle", "safetensors.torch.save_file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", "a PyTorch pickle", "may run any program"),
        (&zip("cls_token.npy"), "NumPy arrays", "safetensors.numpy.save_file"),
        (&zip("metadata.json"), "a file of Keras", "PyTorch's version"),
        (&zip("model.safetensors"), "a packed file", "unpack"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "a file of Keras", "PyTorch's version"),
        (b"\x82\xaaclassifier\x82\xa4bias\xc7", "a file of Flax", "PyTorch's version"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX graph", "exported from"),
        (b"GGUF\x03\0\0\0\x10\0\0\0", "a GGUF file", "made from"),
        (b"\x1c\0\0\0TFL3\x14\0\x20\0", "a TensorFlow Lite graph", "PyTorch's version"),
        (b"\x1f\x8b\x08\x08\xa5\x01\x8a\x66\0\x03model", "a packed file", "unpack"),
        (&tar, "a packed file", "unpack"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture", ""),
        (page, "a web page", "401 Client Error"),
        (b"\xef\xbb\xbf\r\n <html><title>Sign in", "a web page", "fetch the file itself"),
        (br#"{"error":"Repository not found"}"#, "JSON text", "Repository not found"),
        (b"Entry not found", "text", "\"Entry not found\""),
        (&[0; 4096], "zeros at its start", "fetch it again"),
    ] {
        let (offset, what) = fault(bytes);
        assert!(offset == 0 && what.starts_with(&format!("is not a safetensors file but {kind}")), "{what}");
        assert!(what.contains(remedy) && what.len() < 300, "{what}");
    }
    // A header of 640 bytes begins as a pickle does, and is cut short.
    let (_, what) = fault(&[&640u64.to_le_bytes()[..], b"{\"x\":"].concat());
    assert!(what.contains("640 bytes long, but only 5 follow"), "{what}");
}

#[test]
fn overlaps_and_repeated_names_are_errors() {
    let entry = |name: &str, start, end| {
        one_tensor("F32", "[1]", (start, end)).replacen('x', name, 1).trim_matches(['{', '}']).to_owned() + "}"
    };
    let two = |first: &str, second: &str| file(&format!("{{{first},{second}}}"), &[0; 8]);
    assert!(read_bytes(&two(&entry("a", 0, 4), &entry("b", 4, 8)), "good").is_ok());
    assert!(fault(&two(&entry("a", 0, 4), &entry("b", 0, 4))).1.contains("b overlaps the tensor before it"));
    assert!(fault(&two(&entry("a", 0, 4), &entry("a", 4, 8))).1.contains("a occurs twice"));
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(fault(&file(twice, &[])).1.contains("__metadata__ occurs twice"));
    let twice = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(fault(&file(twice, &[])).1.contains("k occurs twice"));
    assert!(fault(&file(r#"{"__metadata__":{"k":1}}"#, &[])).1.contains("expected a string"));
    assert_eq!(read_bytes(&file(r#"{"__metadata__":null}"#, &[]), "null").unwrap(), Checkpoint::default());
}

#[test]
fn a_parser_error_points_at_the_byte() {
    let header = "{\n\n  \"a\": !}";
    assert_eq!(fault(&file(header, &[])).0, 8 + header.find('!').unwrap() as u64);
}

#[test]
fn nesting_and_endless_names_are_harmless() {
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    assert!(fault(&file(&deep, &[])).1.contains("bad header"));
    let deep = format!(r#"{{"x":{{"other":{}"#, "[".repeat(100_000));
    assert!(fault(&file(&deep, &[])).1.contains("bad header"));
    let name = "\\u0007".repeat(100_000);
    let (_, what) = fault(&file(&one_tensor("F32", "[1]", (0, 8)).replacen('x', &name, 1), &[0; 8]));
    assert!(what.len() < 4000 && !what.contains('\u{7}'), "{} bytes", what.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is done to a file, reading it ends in a checkpoint or in an error within the file; and it accepts just what
    /// the reference implementation accepts, but for repeated names.
    #[test]
    fn mutated_files_are_read_as_the_reference_does(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..4),
        fix_length in any::<bool>(),
    ) {
        let (tensors, texts) = small();
        let mut bytes = to_bytes(&tensors, &texts).unwrap();
        let data = tensors.values().map(|t| t.data.len() * 4).sum::<usize>();
        for (index, byte, kind) in edits {
            // Digits and punctuation make more of the mutations pass the parser.
            let byte = if kind == 0 { byte } else { b"0123456789[]{},:\" "[usize::from(byte) % 18] };
            let at = index.index(bytes.len());
            match kind {
                3 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes[at] = byte,
            }
        }
        if fix_length && bytes.len() >= 8 + data {
            let length = (bytes.len() - 8 - data) as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        match (read_within_bounds(&bytes), SafeTensors::deserialize(&bytes)) {
            (Ok(ours), Ok(theirs)) => {
                let names: Vec<&str> = ours.tensors.keys().chain(ours.skipped.keys()).map(String::as_str).collect();
                prop_assert_eq!(names.len(), theirs.len());
                for (name, tensor) in &ours.tensors {
                    let reference = theirs.tensor(name).unwrap();
                    prop_assert_eq!(&tensor.shape, reference.shape());
                }
            }
            (Err(Error::File { offset, what, .. }), theirs) => {
                prop_assert!(offset.is_some_and(|offset| offset <= bytes.len() as u64));
                prop_assert!(theirs.is_err() || what.contains("occurs twice"), "{}", what);
            }
            (ours, theirs) => prop_assert!(false, "ours {:?}, theirs {:?}", ours, theirs.is_ok()),
        }
    }

    /// Well-formed headers with layouts that are right, nearly right, or absurd.
    #[test]
    fn layouts_are_judged_as_the_reference_does(
        entries in prop::collection::vec(
            (
                prop::sample::select(vec!["a", "b", "c"]),
                prop::sample::select(vec!["F32", "F16", "BF16", "I64", "F4"]),
                prop::collection::vec(prop::sample::select(vec![0, 1, 1, 2, 2, 3, u64::MAX, 1 << 33]), 0..3),
                0u64..8,
                prop::sample::select(vec![0, 0, 0, 0, 0, 0, 1, u64::MAX]),
            ),
            0..4,
        ),
        surplus in prop::sample::select(vec![0usize, 0, 0, 1]),
    ) {
        let mut end = 0u64;
        let entries: Vec<String> = entries
            .iter()
            .map(|(name, dtype, shape, bytes, slip)| {
                // Mostly where the tensor before ends, and mostly of the right size.
                let numel = shape.iter().fold(1u64, |n, &size| n.wrapping_mul(size)) % 64;
                let size = match *dtype { "F32" => 4 * numel, "I64" => 8 * numel, "F4" => numel / 2, _ => 2 * numel };
                let start = end.wrapping_add(*slip);
                end = if *bytes == 0 { start.saturating_sub(1) } else { start.saturating_add(size) };
                format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
            })
            .collect();
        let data = vec![0; end.min(4096) as usize + surplus];
        let bytes = file(&format!("{{{}}}", entries.join(",")), &data);
        match (read_within_bounds(&bytes), SafeTensors::deserialize(&bytes)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.tensors.len() + ours.skipped.len(), theirs.len()),
            (Err(Error::File { what, .. }), theirs) => {
                prop_assert!(theirs.is_err() || what.contains("occurs twice"), "{}", what);
            }
            (ours, theirs) => prop_assert!(false, "ours {:?}, theirs {:?}", ours, theirs.is_ok()),
        }
    }

    #[test]
    fn random_bytes_are_an_error_or_a_checkpoint(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read_within_bounds(&bytes) {
            let is_file_error = matches!(error, Error::File { .. });
            prop_assert!(is_file_error);
        }
    }
}

#[test]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let message = read(folder.path()).unwrap_err().to_string();
    assert!(message.ends_with("is not a regular file"), "{message}");
    let missing = folder.path().join("missing");
    assert!(matches!(read(&missing), Err(Error::Io { path, .. }) if path == missing));
    let cut = folder.path().join("cut");
    fs::write(&cut, [1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(matches!(read(&cut), Err(Error::File { path, offset: Some(0), .. }) if path == cut));
}

// Replacing a file.

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let (tensors, texts) = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors, &texts).unwrap();
    let old = fs::read(&path).unwrap();

    // Content that cannot be written.
    let mut bad = tensors.clone();
    bad.insert("short".to_owned(), tensor(&[3], &[1.0]));
    let message = write(&path, &bad, &texts).unwrap_err().to_string();
    assert_eq!(message, "parameter short: has shape [3] but 1 values");
    let mut bad = tensors.clone();
    bad.insert("overflow".to_owned(), tensor(&[usize::MAX, 2], &[]));
    assert!(matches!(write(&path, &bad, &texts), Err(Error::Parameter { .. })));
    bad.remove("overflow");
    bad.insert("__metadata__".to_owned(), tensor(&[], &[1.0]));
    assert!(matches!(write(&path, &bad, &texts), Err(Error::Parameter { .. })));

    // Places that cannot be written to. The second fails only at the rename, with all of the content written.
    let missing = folder.path().join("missing/model.safetensors");
    assert!(matches!(write(&missing, &tensors, &texts), Err(Error::Io { path, .. }) if path == missing));
    let taken = folder.path().join("taken");
    fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(matches!(write(&taken, &tensors, &texts), Err(Error::Io { .. })));
    let no_name = folder.path().join("..");
    assert!(matches!(write(&no_name, &tensors, &texts), Err(Error::File { .. })));

    assert_eq!(names_in(folder.path()), ["model.safetensors", "taken"]);
    assert_eq!(names_in(&taken), ["inside"]);
    assert_eq!(fs::read(&path).unwrap(), old);
}

/// A reader during writes sees the old content or the new one: what a kill would leave at any moment.
#[test]
fn a_file_is_never_seen_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let versions: Vec<Tensors> = [(1.0, 30_000), (2.0, 20_000)]
        .map(|(value, length)| Tensors::from([("x".to_owned(), tensor(&[length], &vec![value; length]))]))
        .into();
    write(&path, &versions[0], &Texts::new()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for i in 0..20 {
                write(&path, &versions[i % 2], &Texts::new()).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = read(&path).unwrap().tensors;
            assert!(versions.contains(&seen));
        }
    });
    assert_eq!(names_in(folder.path()), ["model.safetensors"]);
}

/// Whoever may write to `/dev` would otherwise replace `/dev/null` for the whole system.
#[cfg(unix)]
#[test]
fn a_pipe_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::read(path).unwrap()
    });
    let (tensors, texts) = small();
    write(&path, &tensors, &texts).unwrap();
    // Before the reader is waited for: a pipe that was replaced has no writer, and is read forever.
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap(), to_bytes(&tensors, &texts).unwrap());
    assert_eq!(names_in(folder.path()), ["pipe"]);
}

#[cfg(unix)]
#[test]
fn a_checkpoint_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ordinary, path) = (folder.path().join("ordinary"), folder.path().join("model.safetensors"));
    fs::write(&ordinary, "").unwrap();
    write(&path, &Tensors::new(), &Texts::new()).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&ordinary));
}

/// A folder that may be written to but not read, which cannot be opened to sync it.
#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_read_is_written_to() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let allow = |mode| fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o300);
    let written = write(inner.join("model.safetensors"), &Tensors::new(), &Texts::new());
    allow(0o700);
    written.unwrap();
    assert_eq!(names_in(&inner), ["model.safetensors"]);
}

// Matching.

fn wanted(parameters: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    parameters.iter().map(|&(name, shape)| (name.to_owned(), shape.to_vec())).collect()
}

fn pretrained() -> Checkpoint {
    let names = [("norm.weight", vec![4]), ("norm.bias", vec![4]), ("head.weight", vec![3, 4]), ("fc.weight", vec![2])];
    let tensors = names
        .into_iter()
        .map(|(name, shape)| {
            let numel = shape.iter().product();
            (name.to_owned(), HostTensor { shape, data: vec![0.0; numel] })
        })
        .collect();
    let steps = SkippedTensor { dtype: "I64".to_owned(), shape: vec![] };
    Checkpoint { tensors, metadata: Texts::new(), skipped: BTreeMap::from([("steps".to_owned(), steps)]) }
}

const HEAD: MatchOptions<'_> = MatchOptions { head: &["head"], allow_missing: false };

#[test]
fn a_head_may_differ() {
    let model = wanted(&[("norm.weight", &[4]), ("norm.bias", &[4]), ("head.weight", &[10, 4]), ("head.bias", &[10])]);
    let report = match_parameters(&model, &pretrained(), &HEAD).unwrap();
    assert_eq!(report.loaded, ["norm.weight", "norm.bias"]);
    assert_eq!(report.unused, ["fc.weight", "steps"]);
    assert!(report.missing.is_empty());
    let found: Vec<&Found> = report.new.iter().map(|deviation| &deviation.found).collect();
    assert_eq!(found, [&Found::Shape(vec![3, 4]), &Found::Nothing]);
    let expected = "loaded 2 of 4 parameters\n\
        2 new, from their initial values: head.weight [10, 4] ([3, 4] in the checkpoint), \
        head.bias [10] (not in the checkpoint)\n\
        2 in the checkpoint but not in the model: fc.weight, steps";
    assert_eq!(report.to_string(), expected);
}

#[test]
fn a_head_that_fits_is_loaded() {
    let report = match_parameters(&wanted(&[("head.weight", &[3, 4])]), &pretrained(), &HEAD).unwrap();
    assert_eq!(report.loaded, ["head.weight"]);
    assert_eq!(report.to_string().lines().next(), Some("loaded 1 of 1 parameters"));
}

#[test]
fn other_parameters_may_not_differ() {
    let model = wanted(&[("norm.weight", &[8]), ("header.weight", &[2]), ("steps", &[]), ("norm.bias", &[4])]);
    let Err(Error::Parameter { name, what }) = match_parameters(&model, &pretrained(), &HEAD) else {
        panic!("a mismatch was accepted");
    };
    assert_eq!(name, "norm.weight");
    let expected = "3 of 4 parameters do not fit the checkpoint: norm.weight [8] ([4] in the checkpoint), \
        header.weight [2] (not in the checkpoint), \
        steps [] (I64 in the checkpoint, which is not read)";
    assert_eq!(what, expected);

    let report = match_parameters(&model, &pretrained(), &MatchOptions { allow_missing: true, ..HEAD }).unwrap();
    assert_eq!(report.loaded, ["norm.bias"]);
    assert_eq!(report.missing.len(), 3);
    assert!(report.new.is_empty());
}

#[test]
fn long_lists_are_cut() {
    let names: Vec<(String, Vec<usize>)> = (0..20).map(|i| (format!("blocks.{i}"), vec![1])).collect();
    let message = match_parameters(&names, &pretrained(), &HEAD).unwrap_err().to_string();
    assert!(message.ends_with("blocks.7 [1] (not in the checkpoint) and 12 more"), "{message}");
}
