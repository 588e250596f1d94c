//! Folders as users have them: names of splits and classes, folders in folders, links, other files, copies, unreadable pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgrad::data::{DataSet, FolderOptions, Split, image_folder, list_pictures};

use crate::data::{assert_mentions, noise, photo_folder, refused, save};

fn opened(dir: &Path) -> DataSet {
    image_folder(dir, FolderOptions::default()).unwrap()
}

fn counts(data: &DataSet) -> [usize; 3] {
    [data.train.len(), data.validation.len(), data.test.len()]
}

/// The paths of a split's pictures, as seen from `dir`.
fn files(split: &Split, dir: &Path) -> BTreeSet<String> {
    let inside = |sample| split.file(sample).unwrap().strip_prefix(dir).unwrap().to_str().unwrap().replace('\\', "/");
    (0..split.len() as u32).map(inside).collect()
}

fn touch(path: PathBuf) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "x").unwrap();
}

// Splits.

#[test]
fn every_usual_name_of_a_split_counts() {
    for [train, validation, test] in [
        ["train", "val", "test"],
        ["train", "valid", "testing"],
        ["training", "validation", "test"],
        ["Train", "eval", "TEST"],
        ["TRAINING", "Evaluation", "Testing"],
    ] {
        let dir = TempDir::new().unwrap();
        for (name, photos) in [(train, 4), (validation, 2), (test, 3)] {
            photo_folder(&dir.path().join(name), &["cat", "dog"], photos);
        }
        photo_folder(&dir.path().join("extra"), &["cat"], 2);
        let data = opened(dir.path());
        assert_eq!(counts(&data), [8, 4, 6], "{train}, {validation}, {test}");
        assert!(!data.validation.is_drawn() && !data.test.is_drawn());
        assert_eq!(data.unused, ["folder extra (2 pictures, no split's name)"]);
    }
}

#[test]
fn folders_whose_splits_are_not_clear_are_refused() {
    let dir = TempDir::new().unwrap();
    let open = || refused(image_folder(dir.path(), FolderOptions::default()));
    photo_folder(&dir.path().join("valid"), &["cat", "dog"], 2);
    assert_mentions(&open(), &["valid", "no folder called train"]);
    photo_folder(&dir.path().join("train"), &["cat", "dog"], 2);
    assert_eq!(counts(&opened(dir.path())), [4, 4, 0]);
    photo_folder(&dir.path().join("eval"), &["cat", "dog"], 2);
    assert_mentions(&open(), &["eval", "valid", "both validation folders"]);

    // The other way round: splits inside the classes.
    let dir = TempDir::new().unwrap();
    for class in ["cat", "dog"] {
        photo_folder(&dir.path().join(class), &["train", "test"], 2);
    }
    assert_mentions(
        &refused(image_folder(dir.path(), FolderOptions::default())),
        &["cat", "training and test folders"],
    );
}

/// Trains are a class like any other, if there are other classes beside them.
#[test]
fn a_class_may_have_the_name_of_a_split() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["car", "ship", "train"], 10);
    let data = opened(dir.path());
    assert_eq!(data.class_names, ["car", "ship", "train"]);
    assert_eq!(counts(&data), [21, 3, 6]);
    // Pictures without classes are none.
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["test", "train"], 10);
    assert_mentions(&refused(image_folder(dir.path(), FolderOptions::default())), &["train", "no class folders"]);
}

#[test]
fn a_drawn_split_follows_from_the_names_alone() {
    let dir = TempDir::new().unwrap();
    let open = |seed| image_folder(dir.path(), FolderOptions { seed, ..Default::default() }).unwrap();
    photo_folder(dir.path(), &["cat", "dog"], 20);
    let before = open(0);
    assert!(!before.train.is_drawn() && before.validation.is_drawn() && before.test.is_drawn());
    let [validation, test] = [&before.validation, &before.test].map(|split| files(split, dir.path()));
    // Pinned, by a program of its own: a later version must not train on what an earlier one has tested.
    assert_eq!(validation.iter().collect::<Vec<_>>(), VALIDATION);
    assert_eq!(test.iter().collect::<Vec<_>>(), TEST);
    let other = files(&open(1).test, dir.path());
    assert!(other != test, "another seed draws others");

    // Ten more pictures of a class, of which three are measured: none that had been trained on is measured now.
    for photo in 20..30 {
        save(&dir.path().join("cat").join(format!("{photo}.png")), &noise(16 + photo, 20));
    }
    let after = open(0);
    let trained = files(&before.train, dir.path());
    let moved = files(&after.test, dir.path())
        .union(&files(&after.validation, dir.path()))
        .filter(|name| trained.contains(*name))
        .count();
    assert_eq!(counts(&after), [35, 5, 10]);
    assert_eq!(moved, 0);
}

const VALIDATION: [&str; 4] = ["cat/10.png", "cat/16.png", "dog/06.png", "dog/17.png"];
const TEST: [&str; 8] =
    ["cat/11.png", "cat/12.png", "cat/15.png", "cat/19.png", "dog/00.png", "dog/08.png", "dog/11.png", "dog/19.png"];

#[test]
fn copies_stay_together_or_are_told() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["cat", "dog"], 10);
    for photo in 0..10 {
        let [own, copy] = ["", "copy of "].map(|what| dir.path().join("cat").join(format!("{what}{photo:02}.png")));
        fs::copy(own, copy).unwrap();
    }
    let data = opened(dir.path());
    assert_eq!(data.warnings, [""; 0]);
    for split in [&data.train, &data.validation, &data.test] {
        let names = files(split, dir.path());
        let parted = names
            .iter()
            .filter(|name| name.contains("copy of "))
            .find(|name| !names.contains(&name.replace("copy of ", "")));
        assert_eq!(parted, None);
    }

    let dir = TempDir::new().unwrap();
    photo_folder(&dir.path().join("train"), &["cat", "dog"], 3);
    photo_folder(&dir.path().join("val"), &["dog"], 1);
    fs::copy(dir.path().join("train/dog/02.png"), dir.path().join("val/dog/other.png")).unwrap();
    fs::copy(dir.path().join("train/dog/01.png"), dir.path().join("train/cat/same.png")).unwrap();
    let warnings = opened(dir.path()).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_mentions(&warnings[0], &["in two classes: 2", "train/cat/"]);
    assert_mentions(&warnings[1], &["validation pictures that are trained on too: 2"]);
}

// Classes.

#[test]
fn a_class_has_all_pictures_below_its_folder() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["cat", "dog", "dog/from the park/old"], 8);
    let data = opened(dir.path());
    assert_eq!(data.class_names, ["cat", "dog"]);
    assert_eq!(counts(&data), [16, 3, 5]);
    let listing = list_pictures(dir.path());
    assert_eq!(listing.pictures.len(), 24);
    assert!(listing.pictures.is_sorted() && listing.errors.is_empty());
    assert!(listing.unused.items(dir.path()).is_empty() && data.unused.is_empty());
}

#[test]
fn what_is_not_used_is_told_by_folder_and_kind() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["cat", "dog"], 2);
    for i in 0..60 {
        touch(dir.path().join(format!("cat/IMG_{i}.HEIC")));
    }
    for name in
        ["cat/notes.txt", "dog/more/notes.txt", "dog/.hidden.png", "dog/.DS_Store", ".git/x", "loose.png", "dog/none"]
    {
        touch(dir.path().join(name));
    }
    let expected = [
        "60 .heic in cat (not read: convert them to JPEG or PNG)",
        "2 .txt in 2 folders",
        "1 extensionless file in dog",
        "1 hidden picture in dog",
        "1 stray picture (outside the class folders)",
        "folder .git (hidden)",
    ];
    assert_eq!(opened(dir.path()).unused, expected);

    fs::remove_dir_all(dir.path().join("dog")).unwrap();
    touch(dir.path().join("dog/one.heic"));
    let said = refused(image_folder(dir.path(), FolderOptions::default()));
    assert_mentions(&said, &["class dog has no pictures", "1 .heic"]);
}

/// What a run draws is not what the next one learns from.
#[test]
fn folders_of_runs_hold_no_pictures() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["cat", "dog"], 10);
    for run in ["runs/1", "runs/2", "dog/run"] {
        ["args.json", "recipe.json"].iter().for_each(|name| touch(dir.path().join(run).join(name)));
        save(&dir.path().join(run).join("curves.png"), &noise(9, 9));
    }
    touch(dir.path().join("mine/state.safetensors"));
    save(&dir.path().join("mine/full-length/confusion.png"), &noise(9, 9));
    let data = opened(dir.path());
    assert_eq!(data.class_names, ["cat", "dog"]);
    assert_eq!(counts(&data), [14, 2, 4]);
    let runs = ["dog/run", "mine", "runs/1", "runs/2"].map(|run| format!("folder {run} (a run's)"));
    assert_eq!(data.unused.iter().map(|item| item.replace('\\', "/")).collect::<Vec<_>>(), runs);
    assert_eq!(list_pictures(dir.path()).pictures.len(), 20);
    // Unless it is what was asked for.
    assert_eq!(list_pictures(dir.path().join("runs/1")).pictures.len(), 1);
}

/// Names are anyone's, and messages are for a terminal.
#[cfg(unix)]
#[test]
fn messages_hold_no_control_characters() {
    let dir = TempDir::new().unwrap();
    photo_folder(&dir.path().join("train"), &["cat", "dog"], 2);
    photo_folder(&dir.path().join("val"), &["cat", "dog"], 1);
    photo_folder(&dir.path().join("more\u{1b}[2J"), &["cat"], 2);
    fs::copy(dir.path().join("train/cat/00.png"), dir.path().join("val/dog/\u{7}.png")).unwrap();
    let data = opened(dir.path());
    assert_eq!(data.unused, ["folder more\u{fffd}[2J (2 pictures, no split's name)"]);
    let said = data.warnings.join("\n");
    assert_mentions(&said, &["\u{fffd}.png"]);
    assert!(!said.contains('\u{7}'), "{said}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_lead_nowhere_twice() {
    use std::os::unix::fs::symlink;
    let (dir, real) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    photo_folder(real.path(), &["cat", "dog"], 10);
    for class in ["cat", "dog"] {
        symlink(real.path().join(class), dir.path().join(class)).unwrap();
    }
    assert_eq!(counts(&opened(dir.path())), [14, 2, 4]);
    assert_eq!(list_pictures(dir.path()).pictures.len(), 20);

    // In a circle, to the same folder again, to nothing; and to a picture.
    symlink(real.path(), real.path().join("cat/all")).unwrap();
    fs::create_dir(real.path().join("cat/more")).unwrap();
    symlink(real.path().join("cat/more"), real.path().join("cat/again")).unwrap();
    symlink(real.path().join("nothing.png"), real.path().join("cat/nothing.png")).unwrap();
    symlink(real.path().join("dog/00.png"), real.path().join("cat/more/link.png")).unwrap();
    let listing = list_pictures(real.path());
    assert_eq!(listing.pictures.len(), 21);
    let items = listing.unused.items(real.path());
    assert_eq!(items.len(), 3, "{items:?}");
    assert_mentions(&items[0], &["1 broken link in cat"]);
    assert_mentions(&items[1], &["folder cat/again (the same folder as ", "cat/more)"]);
    assert_mentions(&items[2], &["folder cat/all (the same folder as "]);
}

#[test]
fn names_of_classes_are_the_same_on_every_file_system() {
    let dir = TempDir::new().unwrap();
    // With one character for é, and with e and an accent of its own.
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    photo_folder(&dir.path().join("train"), &[decomposed, "bar"], 3);
    photo_folder(&dir.path().join("val"), &[composed, "bar"], 2);
    let data = opened(dir.path());
    assert_eq!(data.class_names, ["bar", composed]);
    assert_eq!(data.validation.class_counts(2), [2, 2]);
    photo_folder(&dir.path().join("train"), &[composed], 1);
    // A file system that takes both names for one has one folder.
    if let Err(error) = image_folder(dir.path(), FolderOptions::default()) {
        assert_mentions(&error.to_string(), &["another Unicode form"]);
    }
}

/// As torchvision's ImageFolder: whole numbers are names like others.
#[test]
fn classes_are_in_the_order_of_their_names_as_text() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["0", "1", "2", "10", "B", "a"], 1);
    assert_eq!(opened(dir.path()).class_names, ["0", "1", "10", "2", "B", "a"]);
}

// Pictures that cannot be read.

#[test]
fn a_probe_reads_no_more_than_it_must() {
    let dir = TempDir::new().unwrap();
    photo_folder(dir.path(), &["a", "b", "c"], 4);
    for name in ["a/00.png", "c/00.png", "c/01.png", "c/02.png", "c/03.png"] {
        touch(dir.path().join(name));
    }
    let none = FolderOptions { validation: 0.0, test: 0.0, ..Default::default() };
    let split = image_folder(dir.path(), none).unwrap().train;
    let bad = |probe: &wgrad::data::Probe| probe.unreadable.iter().map(|skipped| skipped.sample).collect::<Vec<_>>();
    let probe = split.probe(0);
    assert_eq!((probe.readable, bad(&probe), probe.lost.as_slice()), (2, vec![0, 8, 9, 10, 11], &[2][..]));
    assert_mentions(&probe.unreadable[0].reason, &["00.png"]);
    assert_eq!(split.probe(5).readable, 5);
    assert_eq!(split.probe(100).readable, 7);
    assert_eq!(split.subset(&[8, 9]).unwrap().probe(1).readable, 0);
    assert_eq!(split.subset(&[]).unwrap().probe(1), wgrad::data::Probe::default());
}
