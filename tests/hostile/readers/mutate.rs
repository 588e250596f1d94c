//! How files are spoilt: bytes of any, values of JSON, headers of safetensors, chunks of PNG.

use std::ops::Range;

/// What a value may be replaced by.
const VALUES: &[&str] = &[
    "0",
    "-1",
    "0.5",
    "1e99",
    "1e999",
    "-1e-999",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "true",
    "null",
    "[]",
    "{}",
    "[4, 4]",
    "[[\"a\",\"b\"]]",
    "[[[[[[[[[[",
    "{\"a\":0}",
    "{\"0\": \"\\u0000\"}",
    "\"\"",
    "\"a\"",
    "\"##\"",
    "\"\\u0000\"",
    "\"\\u001b[2J\\u001b[31mred\"",
    "\"\\ud800\"",
    "\"../model.safetensors\"",
    "\"/etc/passwd\"",
    "\"[UNK]\"",
    "\"F64\"",
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a*)*$\"},\"behavior\":\"Isolated\",\"invert\":false}",
    "{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Removed\",\"invert\":true}",
    "{\"type\":\"Digits\",\"individual_digits\":true}",
    "{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"}",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"BPEDecoder\",\"suffix\":\"\"}",
    "{\"type\":\"NFKD\"}",
    "{\"type\":\"WordPiece\",\"prefix\":\"\",\"cleanup\":true}",
    "{\"type\":\"StripAccents\"}",
    "[{\"id\":0,\"content\":\"\",\"special\":true,\"single_word\":true,\"lstrip\":true,\"rstrip\":true,\"normalized\":true}]",
];

/// Numbers at which sizes and counts go wrong.
const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Repeatable draws (SplitMix64).
pub struct Draws(u64);

impl Draws {
    /// What is drawn for one input of a reader.
    pub fn new(reader: &str, seed: u64, number: u64) -> Self {
        let name = reader.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        Draws(mix(mix(name ^ seed) ^ number))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    /// One time of so many.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// `bytes` of the file called `name` with a few edits, mostly one, where `other` is another file of its kind.
pub fn mutated(draws: &mut Draws, name: &str, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let ending = name.rsplit('.').next().unwrap_or_default();
    // Edits that keep a file's frame reach what reads its content.
    let keeps_frame = !draws.one_in(4);
    let edits = if draws.one_in(2) { 1 } else { 1 + draws.below(4) };
    for _ in 0..edits {
        match ending {
            "json" | "jsonl" if keeps_frame => edit_json(draws, &mut bytes, other),
            "safetensors" if keeps_frame => edit_header(draws, &mut bytes),
            "txt" | "csv" if keeps_frame => edit_lines(draws, &mut bytes, other),
            _ => edit_bytes(draws, &mut bytes, other),
        }
    }
    if ending == "png" && keeps_frame {
        repair_png(&mut bytes);
    }
    bytes
}

/// A range of at most `most` bytes somewhere.
fn range(draws: &mut Draws, length: usize, most: usize) -> Range<usize> {
    let start = draws.below(length);
    start..(start + 1 + draws.below(most)).min(length)
}

fn edit_bytes(draws: &mut Draws, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = draws.below(bytes.len());
    match draws.below(10) {
        0 if !bytes.is_empty() => bytes[at] = draws.byte(),
        1 if !bytes.is_empty() => bytes[at] ^= 1 << draws.below(8),
        2 => bytes.insert(at, draws.byte()),
        3 if draws.one_in(4) => bytes.truncate(at),
        4 => drop(bytes.drain(range(draws, bytes.len(), 20))),
        5 => {
            let copy = bytes[range(draws, bytes.len(), 40)].to_vec();
            bytes.splice(at..at, copy.repeat(1 + draws.below(3)));
        }
        6 => {
            let from = range(draws, other.len(), 60);
            let to = at..(at + draws.below(60)).min(bytes.len());
            bytes.splice(to, other[from].iter().copied());
        }
        _ => {
            let width = 1 << draws.below(4);
            let number = NUMBERS[draws.below(NUMBERS.len())];
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let written = if draws.one_in(2) { &little[..width] } else { &big[8 - width..] };
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, written.iter().copied());
        }
    }
}

/// Where the value that begins at `start` ends: at the next comma or bracket outside its own brackets and quotes.
fn value_end(text: &[u8], start: usize) -> usize {
    let (mut depth, mut in_quotes, mut escaped) = (0usize, false, false);
    for (i, &byte) in text[start..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            b'[' | b'{' => depth += 1,
            b',' | b']' | b'}' if depth == 0 => return start + i,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Some value of a JSON text: what follows a colon, a comma or an opening bracket.
fn value(draws: &mut Draws, text: &[u8]) -> Option<Range<usize>> {
    let from = draws.below(text.len());
    let before = text[from..].iter().position(|byte| b":,[".contains(byte))?;
    let start = from + before + 1;
    Some(start..value_end(text, start))
}

fn edit_json(draws: &mut Draws, bytes: &mut Vec<u8>, other: &[u8]) {
    let Some(place) = value(draws, bytes) else { return edit_bytes(draws, bytes, other) };
    match draws.below(8) {
        // Also a key, where the value stands behind a comma.
        0 => drop(bytes.drain(place)),
        1 => {
            let copy = bytes[place.clone()].to_vec();
            let times = if draws.one_in(20) { 300 } else { 1 };
            bytes.splice(place.start..place.start, [copy.as_slice(), b","].concat().repeat(times));
        }
        2 => {
            let from = if draws.one_in(2) { bytes.clone() } else { other.to_vec() };
            if let Some(another) = value(draws, &from) {
                bytes.splice(place, from[another].iter().copied());
            }
        }
        3 if draws.one_in(4) => {
            bytes.splice(place.start..place.start, b"[".repeat(1 << draws.below(12)));
        }
        4 => edit_bytes(draws, bytes, other),
        5 => drop(bytes.splice(place, draws.of(VALUES).bytes())),
        _ => {
            let like = alike(draws, &bytes[place.clone()]);
            bytes.splice(place, like);
        }
    }
}

/// A value of the same kind as `value`, which more of a reader's questions let pass.
fn alike(draws: &mut Draws, value: &[u8]) -> Vec<u8> {
    let number = NUMBERS[draws.below(NUMBERS.len())];
    match value.trim_ascii_start().first() {
        Some(b't') => b"false".into(),
        Some(b'f') => b"true".into(),
        Some(b'"') => {
            let mut text = value.to_vec();
            let at = 1 + draws.below(text.len() - 1);
            text.insert(at, b"0a.,/ #_-9"[draws.below(10)]);
            text
        }
        Some(b'0'..=b'9' | b'-') => match draws.below(5) {
            0 => number.to_string().into_bytes(),
            1 => [b"-", value.trim_ascii()].concat(),
            2 => [value.trim_ascii(), b"0"].concat(),
            3 => (draws.below(300) as f64 / 7.0).to_string().into_bytes(),
            _ => draws.below(70).to_string().into_bytes(),
        },
        _ => draws.of(VALUES).as_bytes().to_vec(),
    }
}

fn edit_lines(draws: &mut Draws, bytes: &mut Vec<u8>, other: &[u8]) {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let others: Vec<&[u8]> = other.split(|&byte| byte == b'\n').collect();
    let (at, to) = (draws.below(lines.len()), draws.below(lines.len()));
    match draws.below(6) {
        0 => lines.insert(to, lines[at]),
        1 => drop(lines.remove(at)),
        2 => lines.swap(at, to),
        3 => lines.insert(to, draws.of(&others)),
        4 => lines.insert(to, draws.of(VALUES).as_bytes()),
        _ => return edit_bytes(draws, bytes, other),
    }
    *bytes = lines.join(&b'\n');
}

/// Edits the JSON in front of safetensors' data, and says its new length.
fn edit_header(draws: &mut Draws, bytes: &mut Vec<u8>) {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    let Some(header) = bytes.get(8..8usize.saturating_add(length)) else { return edit_bytes(draws, bytes, &[]) };
    let mut edited = header.to_vec();
    edit_json(draws, &mut edited, header);
    let length = (edited.len() as u64).to_le_bytes();
    bytes.splice(..8 + header.len(), length.into_iter().chain(edited));
}

/// Gives each chunk the checksum that it should have.
fn repair_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at + 8 + (u32::from_be_bytes(*length) as usize).min(bytes.len());
        let Some(chunk) = bytes.get(at + 4..end) else { return };
        let mut sum = flate2::Crc::new();
        sum.update(chunk);
        let Some(stored) = bytes.get_mut(end..end + 4) else { return };
        stored.copy_from_slice(&sum.sum().to_be_bytes());
        at = end + 4;
    }
}
