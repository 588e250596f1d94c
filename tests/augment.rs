//! Augmentation: single edits, what is drawn, and the crops and rectangles that depend on it.

use proptest::prelude::*;
use wgrad::data::{
    AutoAugment, ColorJitter, Crop, Edit, Fill, Image, Interpolation, Key, Normalize, Padding, Part, RandomErasing,
    Transform,
};

use crate::data::{apply, assert_mentions, channels_first, fnv, noise, refused};

/// [`noise`], its values v made v² / 512: none above 127, most of them dark.
fn dark(width: u32, height: u32) -> Image<'static> {
    let mut image = noise(width, height);
    image.pixels_mut().iter_mut().for_each(|v| *v = (u32::from(*v) * u32::from(*v) / 512) as u8);
    image
}

/// `image` after one edit.
fn edited(edit: Edit, image: &Image<'_>) -> Image<'static> {
    let mut image = image.clone().into_owned();
    edit.apply(&mut image);
    image
}

/// The expected values are hashes of what Pillow 13.0.0 makes of these four pictures, one after the other, by the calls that
/// torchvision's functional transforms make: `transform(AFFINE)` with the inverse matrix of `affine(shear, translate)`,
/// `rotate`, `ImageEnhance`, `ImageOps`, and for the hue a shifted first channel of `convert("HSV")`. Posterize(0), which
/// Pillow refuses, is black.
#[test]
fn edits_equal_pillow() {
    let pictures = [noise(9, 7), dark(37, 53), noise(64, 64), noise(2, 5)];
    let cases = [
        (Edit::ShearX(0.033), 0x5373_3b64_a737_6807),
        (Edit::ShearY(0.033), 0xa9d7_9211_d1d9_83cd),
        (Edit::ShearX(-0.4356), 0x4b73_b9c1_da74_3b1b),
        (Edit::ShearY(-0.4356), 0xf1e8_e174_38bd_0356),
        (Edit::ShearX(0.99), 0x5022_2fd3_1eed_5b87),
        (Edit::ShearY(0.99), 0x057b_30e3_4a52_edec),
        (Edit::ShearX(0.0), 0xfd23_079b_24e8_2ad0),
        (Edit::ShearY(0.0), 0xfd23_079b_24e8_2ad0),
        (Edit::TranslateX(3), 0x9d7c_7bdb_0b30_2a4c),
        (Edit::TranslateY(3), 0x0c77_9507_cc44_99f5),
        (Edit::TranslateX(-5), 0x9465_8118_0cf4_9cc1),
        (Edit::TranslateY(-5), 0x447c_e7cb_f471_3537),
        (Edit::TranslateX(32), 0x1aad_66c8_bde9_ef48),
        (Edit::TranslateY(32), 0x9c35_3298_f052_f87e),
        (Edit::Rotate(0.0), 0xfd23_079b_24e8_2ad0),
        (Edit::Rotate(4.5), 0xeccf_bca9_993e_e609),
        (Edit::Rotate(-31.5), 0x0455_7a14_9188_88dd),
        (Edit::Rotate(90.0), 0x7e0c_8c2c_0f65_4202),
        (Edit::Rotate(-90.0), 0xf187_fc6b_08e9_e47a),
        (Edit::Rotate(135.0), 0x883f_03e2_1097_d771),
        (Edit::Rotate(180.0), 0x62fc_1a8e_7d87_2372),
        (Edit::Brightness(0.0), 0x6c4e_12d4_aad7_db7d),
        (Edit::Brightness(0.01), 0xe338_5ae2_4d34_8b79),
        (Edit::Brightness(0.637), 0x825f_0a93_3af3_7985),
        (Edit::Brightness(1.0), 0xfd23_079b_24e8_2ad0),
        (Edit::Brightness(1.99), 0x0e6c_5303_91c8_4234),
        (Edit::Brightness(7.3), 0x74be_4234_06cf_31ef),
        (Edit::Saturation(0.0), 0xe48c_b1d9_4696_f52a),
        (Edit::Saturation(0.01), 0x9e8f_c9a8_dc62_28ad),
        (Edit::Saturation(0.637), 0x0fa6_9c24_344d_490d),
        (Edit::Saturation(1.0), 0xfd23_079b_24e8_2ad0),
        (Edit::Saturation(1.99), 0xaa24_d178_f10b_e5a5),
        (Edit::Saturation(7.3), 0x2f90_0892_41f7_f123),
        (Edit::Contrast(0.0), 0xa3f5_b2f3_d37d_1fda),
        (Edit::Contrast(0.01), 0xfd60_1517_3412_9d09),
        (Edit::Contrast(0.637), 0x9129_d189_2d38_d034),
        (Edit::Contrast(1.0), 0xfd23_079b_24e8_2ad0),
        (Edit::Contrast(1.99), 0x10b8_36d3_ed99_6cb6),
        (Edit::Contrast(7.3), 0x1f13_d6ee_990c_6e39),
        (Edit::Sharpness(0.0), 0x9997_becb_92b2_2f6d),
        (Edit::Sharpness(0.01), 0xc126_4b6a_e0d7_c369),
        (Edit::Sharpness(0.637), 0x5f75_2aea_8c30_be80),
        (Edit::Sharpness(1.0), 0xfd23_079b_24e8_2ad0),
        (Edit::Sharpness(1.99), 0x2671_ea82_395d_23f0),
        (Edit::Sharpness(7.3), 0x4e83_3c68_5f71_6a9e),
        (Edit::Hue(0.1), 0x7dfb_da02_64b1_3408),
        (Edit::Hue(-0.1), 0xf6d2_9e4e_8867_bf70),
        (Edit::Hue(0.5), 0xec2a_f544_cfd9_4047),
        (Edit::Hue(-0.37), 0x14ea_8266_799a_2ae2),
        (Edit::Posterize(0), 0x6c4e_12d4_aad7_db7d),
        (Edit::Posterize(1), 0x934d_7e85_d128_197d),
        (Edit::Posterize(2), 0xd17f_a9e8_d127_bafd),
        (Edit::Posterize(5), 0xe205_6cc4_b6fa_508d),
        (Edit::Posterize(8), 0xfd23_079b_24e8_2ad0),
        (Edit::Solarize(0.0), 0x0781_6cdc_4451_fad6),
        (Edit::Solarize(100.3), 0xfb9a_6145_5304_b675),
        (Edit::Solarize(128.0), 0x06ed_7ec2_882f_7ace),
        (Edit::Solarize(255.0), 0x52a9_9dbb_0439_d015),
        (Edit::Solarize(256.0), 0xfd23_079b_24e8_2ad0),
        (Edit::AutoContrast, 0x6c4c_f445_cef9_edf5),
        (Edit::Equalize, 0xcc0b_947a_9273_e73d),
    ];
    let mut wrong = Vec::new();
    for (edit, expected) in cases {
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| edited(edit, picture).pixels().to_vec()).collect();
        if fnv(&bytes) != expected {
            wrong.push(edit);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn edits_of_single_and_grey_pixels() {
    let spot = Image::new(1, 1, vec![10, 100, 200]).unwrap();
    for edit in [Edit::AutoContrast, Edit::Equalize, Edit::Sharpness(9.0), Edit::ShearX(0.3), Edit::Rotate(30.0)] {
        assert_eq!(edited(edit, &spot), spot, "{edit:?}");
    }
    assert_eq!(edited(Edit::TranslateX(1), &spot).pixels(), [0; 3]);
    let grey = Image::new(3, 3, vec![77; 27]).unwrap();
    for edit in [Edit::Hue(0.3), Edit::Saturation(5.0), Edit::Contrast(0.2), Edit::Equalize] {
        assert_eq!(edited(edit, &grey), grey, "{edit:?}");
    }
}

// Crops.

/// As Pillow 13.0.0: `noise.crop(part).resize((size, size), BICUBIC)`, or BILINEAR, which does not look around the part.
#[test]
fn resized_parts_equal_pillow() {
    let cases = [
        ([40, 30], [5, 3, 20, 17], 12, 0x9de2_6783_8b39_e5fd),
        ([31, 17], [0, 0, 31, 17], 8, 0xe456_dff3_4b0c_832a),
        ([33, 1000], [4, 10, 29, 900], 16, 0x5c64_d466_b4fc_d8e4),
        ([9, 7], [8, 6, 1, 1], 5, 0x17d9_7e1e_0b5d_df40),
        ([64, 64], [10, 20, 32, 32], 32, 0x556b_d6c4_aad4_7671),
        ([50, 20], [3, 2, 47, 5], 24, 0x3d7e_109c_a7d4_16e9),
    ]
    .map(|case| (Interpolation::Bicubic, case));
    let bilinear = [
        ([40, 30], [5, 3, 20, 17], 12, 0x2d1e_a0a5_e3df_0df5),
        ([33, 1000], [4, 10, 29, 900], 16, 0x82bb_61a7_0e86_d67f),
        ([50, 20], [3, 2, 47, 5], 24, 0x6f3c_3346_32d1_6d14),
    ]
    .map(|case| (Interpolation::Bilinear, case));
    for (filter, ([width, height], [left, top, part_width, part_height], size, expected)) in
        cases.into_iter().chain(bilinear)
    {
        let part = Part { left, top, width: part_width, height: part_height };
        let resized = noise(width, height).resize_part(part, size, size, filter).unwrap();
        assert_eq!(fnv(resized.pixels()), expected, "{part:?} of {width} x {height} to {size}");
    }
    let image = noise(6, 4);
    let refuse = |left, top, width, height| {
        refused(image.resize_part(Part { left, top, width, height }, 2, 2, Interpolation::Bicubic))
    };
    assert_mentions(&refuse(0, 0, 7, 4), &["part", "6 x 4"]);
    assert_mentions(&refuse(1, 0, 6, 4), &["part"]);
    assert_mentions(&refuse(0, 2, 6, 3), &["part"]);
    assert_mentions(&refuse(0, 0, 0, 4), &["part"]);
    assert_mentions(&refuse(u32::MAX, 0, 1, 4), &["part"]);
}

#[test]
fn random_resized_crops_lie_anywhere() {
    // A quarter of the area in the shape of a square: 8 × 8 of 16 × 16, which are not changed by resizing to 8 × 8.
    let image = noise(16, 16);
    let transform = Transform::new(8, Crop::RandomResized { scale: (0.25, 0.25), ratio: (1.0, 1.0) });
    let places = (0..9).flat_map(|left| (0..9).map(move |top| Part { left, top, width: 8, height: 8 }));
    let windows: Vec<_> =
        places.map(|part| channels_first(&image.resize_part(part, 8, 8, Interpolation::Bicubic).unwrap())).collect();
    let mut seen = vec![0; windows.len()];
    for sample in 0..2000 {
        let made = apply(transform, &image, sample);
        seen[windows.iter().position(|window| *window == made).expect("a window of the picture")] += 1;
    }
    // 2,000 draws of 81: 25 each, with a deviation of 5.
    assert!(seen.iter().all(|&count| (5..55).contains(&count)), "{seen:?}");
}

#[test]
fn random_resized_crops_have_the_areas_and_shapes_asked_for() {
    // Red grows to the right and green downwards, 1 a pixel, so that the sample's slopes give the crop's sides.
    let (width, height) = (200u32, 150u32);
    let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 0])).collect();
    let image = Image::new(width, height, pixels).unwrap();
    let transform = Transform::new(16, Crop::RandomResized { scale: (0.2, 0.6), ratio: (0.5, 2.0) });
    let (mut areas, mut ratios) = (Vec::new(), Vec::new());
    for sample in 0..1000 {
        let made = apply(transform, &image, sample);
        // Between the middles of columns (rows) 2 and 13 lie 11/16 of the crop.
        let slope = |from: usize, to: usize| (f64::from(made[to]) - f64::from(made[from])) * 16.0 / 11.0;
        let [w, h] = [slope(2, 13), slope(256 + 2 * 16, 256 + 13 * 16)];
        areas.push(w * h / f64::from(width * height));
        ratios.push((w / h).log2());
    }
    assert!(areas.iter().all(|area| (0.18..0.63).contains(area)));
    assert!(ratios.iter().all(|ratio| (-1.1..1.1).contains(ratio)));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    // Wide crops of a large area do not fit and are drawn again, hence a little less than (0.2 + 0.6) / 2.
    assert!((0.36..0.42).contains(&mean(&areas)), "{}", mean(&areas));
    assert!(mean(&ratios).abs() < 0.15, "{}", mean(&ratios));
}

#[test]
fn pictures_too_narrow_for_the_ratio_give_their_middle() {
    let crop = Crop::RandomResized { scale: (0.9, 1.0), ratio: (0.75, 4.0 / 3.0) };
    for ((width, height), [left, top, part_width, part_height]) in
        [((4, 90), [0, 42, 4, 5]), ((90, 3), [43, 0, 4, 3]), ((1, 30), [0, 14, 1, 1])]
    {
        let image = noise(width, height);
        let part = Part { left, top, width: part_width, height: part_height };
        let expected = channels_first(&image.resize_part(part, 7, 7, Interpolation::Bicubic).unwrap());
        assert_eq!(apply(Transform::new(7, crop), &image, 5), expected, "{width} x {height}");
    }
}

// Policies.

/// How often each of `edits` explains what `auto_augment` makes of a picture in `samples` samples; each must have one.
fn explained(auto_augment: AutoAugment, image: &Image<'_>, edits: &[Edit], samples: u32) -> Vec<u32> {
    let size = image.width();
    let possible: Vec<_> = edits.iter().map(|&edit| channels_first(&edited(edit, image))).collect();
    let transform = Transform { auto_augment, ..Transform::new(size, Crop::Whole) };
    let mut counts = vec![0; edits.len()];
    for sample in 0..samples {
        let made = apply(transform, image, sample);
        counts[possible.iter().position(|edited| *edited == made).expect("one of the edits")] += 1;
    }
    counts
}

/// Both directions.
fn both(edit: impl Fn(f64) -> Edit) -> [Edit; 2] {
    [edit(1.0), edit(-1.0)]
}

#[test]
fn rand_augment_draws_every_edit_in_both_directions() {
    let image = dark(64, 64);
    let most = f64::from(0.3_f32);
    let factor = f64::from(0.9_f32);
    let signed = [
        both(|sign| Edit::ShearX(sign * most)),
        both(|sign| Edit::ShearY(sign * most)),
        both(|sign| Edit::TranslateX(sign as i32 * 29)), // 150/331 of 64
        both(|sign| Edit::TranslateY(sign as i32 * 29)),
        both(|sign| Edit::Rotate(sign * 30.0)),
        both(|sign| Edit::Brightness(1.0 + sign * factor)),
        both(|sign| Edit::Saturation(1.0 + sign * factor)),
        both(|sign| Edit::Contrast(1.0 + sign * factor)),
        both(|sign| Edit::Sharpness(1.0 + sign * factor)),
    ];
    let unsigned = [Edit::Posterize(8), Edit::Posterize(4), Edit::Solarize(0.0), Edit::AutoContrast, Edit::Equalize];
    let edits: Vec<Edit> = signed.into_iter().flatten().chain(unsigned).collect();
    let counts = explained(AutoAugment::Rand { ops: 1, magnitude: 30 }, &image, &edits, 2800);
    // 2,800 draws of 14 kinds: 200 each, halves for the signed.
    assert!(counts[..18].iter().all(|count| (60..145).contains(count)), "{counts:?}");
    assert!(counts[18..].iter().all(|count| (150..260).contains(count)), "{counts:?}");

    // The lowest level: what is left are inverted 255s, stretching and equalising.
    let edits = [Edit::Posterize(8), Edit::AutoContrast, Edit::Equalize];
    let counts = explained(AutoAugment::Rand { ops: 1, magnitude: 0 }, &image, &edits, 700);
    assert!(counts[0] > 500 && counts[1] > 20 && counts[2] > 20, "{counts:?}");
    assert_eq!(explained(AutoAugment::Rand { ops: 0, magnitude: 9 }, &image, &edits[..1], 10), [10]);
}

#[test]
fn trivial_augment_reaches_its_widest_strengths() {
    let image = noise(12, 12);
    let wide = f64::from(0.99_f32);
    let edits = [
        Edit::ShearX(wide),
        Edit::ShearY(-wide),
        Edit::Rotate(135.0),
        Edit::Rotate(-90.0),
        Edit::Brightness(1.0 + wide),
        Edit::Saturation(1.0 - wide),
        Edit::Contrast(1.0 - wide),
        Edit::Sharpness(1.0 + wide),
        Edit::Posterize(2),
        Edit::Solarize(0.0),
        Edit::AutoContrast,
        Edit::Equalize,
    ];
    let transform = Transform { auto_augment: AutoAugment::Trivial, ..Transform::new(12, Crop::Whole) };
    let made: std::collections::HashSet<_> = (0..9000).map(|sample| apply(transform, &image, sample)).collect();
    for edit in edits {
        assert!(made.contains(&channels_first(&edited(edit, &image))), "{edit:?}");
    }
}

#[test]
fn color_jitter_stays_in_its_range() {
    let grey = Image::new(4, 4, vec![100; 48]).unwrap();
    let jitter =
        |color_jitter: ColorJitter| Transform { color_jitter: Some(color_jitter), ..Transform::new(4, Crop::Whole) };
    let brighter = jitter(ColorJitter { brightness: 0.4, ..Default::default() });
    let values: Vec<u8> = (0..500).map(|sample| apply(brighter, &grey, sample)[0]).collect();
    let (least, most) = (values.iter().min().unwrap(), values.iter().max().unwrap());
    assert!((60..=62).contains(least) && (138..=140).contains(most), "{least} {most}");
    // A factor is never negative: this is from 0 to 3.
    let any = jitter(ColorJitter { brightness: 2.0, ..Default::default() });
    let values: Vec<u8> = (0..500).map(|sample| apply(any, &grey, sample)[0]).collect();
    assert!(*values.iter().min().unwrap() < 5 && *values.iter().max().unwrap() == 255);
    // Grey has no hue, and no saturation.
    let coloured = jitter(ColorJitter { saturation: 1.0, hue: 0.5, ..Default::default() });
    assert!((0..50).all(|sample| apply(coloured, &grey, sample) == [100; 48]));
    let nothing = jitter(ColorJitter::default());
    assert_eq!(apply(nothing, &noise(4, 4), 1), channels_first(&noise(4, 4)));
}

#[test]
fn erased_rectangles_have_the_areas_asked_for() {
    let image = Image::new(20, 20, vec![9; 1200]).unwrap();
    let erasing = RandomErasing { fill: Fill::Colour([1, 2, 3]), ..RandomErasing::new(1.0) };
    let transform = |erasing| Transform { erasing: Some(erasing), ..Transform::new(20, Crop::Whole) };
    for sample in 0..300 {
        let made = apply(transform(erasing), &image, sample);
        let erased: Vec<(usize, usize)> = (0..400).filter(|&at| made[at] != 9).map(|at| (at % 20, at / 20)).collect();
        let span = |values: Vec<usize>| values.iter().max().unwrap() - values.iter().min().unwrap() + 1;
        let (width, height) = (span(erased.iter().map(|p| p.0).collect()), span(erased.iter().map(|p| p.1).collect()));
        assert_eq!(erased.len(), width * height, "a rectangle");
        // 2% to a third of 400, with sides rounded.
        assert!((4..=150).contains(&erased.len()), "{width} x {height}");
        assert!(erased.iter().all(|(x, y)| (0..3).all(|c| made[c * 400 + y * 20 + x] == c as u8 + 1)));
    }
    let some = transform(RandomErasing { probability: 0.25, ..erasing });
    let changed = (0..2000).filter(|&sample| apply(some, &image, sample).contains(&1)).count();
    assert!((430..570).contains(&changed), "{changed}");
    let never = transform(RandomErasing { probability: 0.0, ..erasing });
    assert!((0..100).all(|sample| apply(never, &image, sample) == [9; 1200]));
    // A rectangle as large as the sample is not wanted: torchvision's and timm's rule.
    let whole = transform(RandomErasing { scale: (1.0, 1.0), ratio: (1.0, 1.0), ..erasing });
    assert_eq!(apply(whole, &image, 1), [9; 1200]);
    let noisy = apply(transform(RandomErasing { scale: (0.5, 0.5), ..RandomErasing::new(1.0) }), &image, 4);
    let different: std::collections::HashSet<_> = noisy.iter().collect();
    assert!(different.len() > 100);
    assert_eq!(Normalize::IMAGENET.mean_color(), [124, 116, 104]);
}

/// Everything at once.
const FULL: Transform = Transform {
    flip: true,
    auto_augment: AutoAugment::Rand { ops: 2, magnitude: 9 },
    color_jitter: Some(ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 }),
    erasing: Some(RandomErasing::new(0.5)),
    ..Transform::new(24, Crop::RandomResized { scale: (0.08, 1.0), ratio: (0.75, 4.0 / 3.0) })
};

#[test]
fn augmentation_depends_on_the_whole_key() {
    let image = noise(40, 30);
    let make = |key: Key| {
        let mut out = vec![0; FULL.sample_bytes()];
        FULL.apply(&image, key, &mut out).unwrap();
        out
    };
    let key = Key { seed: 1, epoch: 2, sample: 3 };
    assert_eq!(make(key), make(key));
    for other in [Key { seed: 2, ..key }, Key { epoch: 3, ..key }, Key { sample: 4, ..key }] {
        assert!(make(other) != make(key));
    }
    // Pinned, so that a stored run can be continued by a later version.
    assert_eq!(fnv(&make(key)), 0x9090_ed91_b07e_7059);
}

#[test]
fn settings_out_of_range_are_named() {
    let refuse = |transform: Transform| refused(transform.check());
    let good = Transform::new(8, Crop::Whole);
    let crop = |scale, ratio| Transform { crop: Crop::RandomResized { scale, ratio }, ..good };
    for scale in [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (f64::NAN, 1.0), (0.1, f64::NAN), (-1.0, 1.0)] {
        assert_mentions(&refuse(crop(scale, (1.0, 1.0))), &["scale", "ascending"]);
        let erasing = RandomErasing { scale, ..RandomErasing::new(0.1) };
        assert_mentions(&refuse(Transform { erasing: Some(erasing), ..good }), &["scale"]);
    }
    for ratio in [(0.0, 1.0), (2.0, 1.0), (1.0, f64::INFINITY), (f64::NAN, 1.0)] {
        assert_mentions(&refuse(crop((0.5, 1.0), ratio)), &["ratio"]);
        let erasing = RandomErasing { ratio, ..RandomErasing::new(0.1) };
        assert_mentions(&refuse(Transform { erasing: Some(erasing), ..good }), &["ratio"]);
    }
    for probability in [-0.1, 1.1, f64::NAN] {
        let erasing = Some(RandomErasing::new(probability));
        assert_mentions(&refuse(Transform { erasing, ..good }), &["probability"]);
    }
    let auto = |ops, magnitude| Transform { auto_augment: AutoAugment::Rand { ops, magnitude }, ..good };
    assert_mentions(&refuse(auto(17, 9)), &["ops", "at most 16"]);
    assert_mentions(&refuse(auto(2, 31)), &["magnitude", "below 31"]);
    let jitter = |color_jitter| Transform { color_jitter: Some(color_jitter), ..good };
    assert_mentions(&refuse(jitter(ColorJitter { hue: 0.6, ..Default::default() })), &["hue", "0.5"]);
    assert_mentions(&refuse(jitter(ColorJitter { contrast: -0.1, ..Default::default() })), &["contrast"]);
    assert_mentions(&refuse(jitter(ColorJitter { saturation: f64::NAN, ..Default::default() })), &["saturation"]);
    assert_mentions(&refuse(jitter(ColorJitter { brightness: f64::INFINITY, ..Default::default() })), &["brightness"]);
}

fn any_crop() -> impl Strategy<Value = Crop> {
    let interval = |from: f64, to: f64| (from..=to, from..=to).prop_map(|(a, b)| if a <= b { (a, b) } else { (b, a) });
    prop_oneof![
        Just(Crop::Whole),
        (0u32..60, any::<bool>()).prop_map(|(pixels, zero)| Crop::Pad {
            pixels,
            padding: if zero { Padding::Zero } else { Padding::Reflect }
        }),
        (0.05..=1.0).prop_map(|fraction| Crop::Center { fraction }),
        (0.05..=1.0).prop_map(|fraction| Crop::Squash { fraction }),
        (0.05..=1.0).prop_map(|fraction| Crop::Random { fraction }),
        (interval(1e-9, 1.0), interval(0.01, 100.0)).prop_map(|(scale, ratio)| Crop::RandomResized { scale, ratio }),
    ]
}

fn any_transform() -> impl Strategy<Value = Transform> {
    let auto_augment = prop_oneof![
        Just(AutoAugment::None),
        Just(AutoAugment::Trivial),
        (0u32..=16, 0u32..=30).prop_map(|(ops, magnitude)| AutoAugment::Rand { ops, magnitude }),
    ];
    let jitter = [0.0..=100.0, 0.0..=100.0, 0.0..=100.0, 0.0..=0.5]
        .prop_map(|[brightness, contrast, saturation, hue]| ColorJitter { brightness, contrast, saturation, hue });
    let erasing = (0.0..=1.0, 1e-6..=1.0, any::<bool>()).prop_map(|(probability, scale, noise)| RandomErasing {
        scale: (scale, 1.0),
        fill: if noise { Fill::Noise } else { Fill::Colour([1, 2, 3]) },
        ..RandomErasing::new(probability)
    });
    let filter = prop_oneof![Just(Interpolation::Bicubic), Just(Interpolation::Bilinear)];
    let crop = (1u32..40, any_crop(), filter, any::<bool>());
    let edits = (auto_augment, proptest::option::of(jitter), proptest::option::of(erasing));
    (crop, edits).prop_map(|((size, crop, interpolation, flip), (auto_augment, color_jitter, erasing))| Transform {
        size,
        crop,
        interpolation,
        flip,
        auto_augment,
        color_jitter,
        erasing,
    })
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let number = prop_oneof![-2.0..2.0, -400.0..400.0, any::<f64>(), Just(f64::NAN), Just(f64::INFINITY)];
    let real = (0..9, number).prop_map(|(kind, by)| match kind {
        0 => Edit::ShearX(by),
        1 => Edit::ShearY(by),
        2 => Edit::Rotate(by),
        3 => Edit::Brightness(by),
        4 => Edit::Saturation(by),
        5 => Edit::Contrast(by),
        6 => Edit::Sharpness(by),
        7 => Edit::Hue(by),
        _ => Edit::Solarize(by),
    });
    prop_oneof![
        real,
        any::<i32>().prop_map(Edit::TranslateX),
        any::<i32>().prop_map(Edit::TranslateY),
        any::<u32>().prop_map(Edit::Posterize),
    ]
}

proptest! {
    #[test]
    fn any_settings_in_range_take_any_picture(
        transform in any_transform(),
        (width, height) in (1u32..70, 1u32..70),
        plain in any::<bool>(),
        sample in any::<u32>(),
    ) {
        let image = if plain { Image::new(width, height, vec![9; (width * height * 3) as usize]).unwrap() } else { noise(width, height) };
        transform.check().unwrap();
        prop_assert_eq!(apply(transform, &image, sample).len(), transform.sample_bytes());
    }

    #[test]
    fn any_edit_takes_any_picture(edit in any_edit(), (width, height) in (1u32..40, 1u32..40)) {
        let made = edited(edit, &noise(width, height));
        prop_assert_eq!((made.width(), made.height()), (width, height));
    }
}
