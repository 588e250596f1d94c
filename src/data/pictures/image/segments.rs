//! What a JPEG is made of, ITU-T T.81 annex B, and whether all of it is there.

use std::io::BufRead;

use jpeg_decoder::ColorTransform;

use super::frame::Frame;

/// Most scans that are decoded: cjpeg writes no more, and each one may go over the whole picture.
const MAX_SCANS: usize = 100;
/// Ones put behind the data of a scan, in bytes: decoders read up to 8 bytes ahead, and a code has up to 16 bits.
const ONES: usize = 64;

// Markers, T.81 table B.1, each behind a byte FF.
const DHT: u8 = 0xc4;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DQT: u8 = 0xdb;
const DNL: u8 = 0xdc;
const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP14: u8 = 0xee;

/// What a JPEG says of itself, and its data.
pub(super) struct Segments<'a> {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Colour channels: 1, 3 or 4.
    pub channels: usize,
    /// What the channels are.
    pub colours: ColorTransform,
    /// Whether it is of the kind that cameras and phones write: one scan with all its restart markers, grey or YCbCr, with the
    /// colours at full or half resolution.
    pub plain: bool,
    /// Whether an end marker follows the data. Else, what follows may have been taken for data.
    pub ended: bool,
    /// The Exif data, from the TIFF header on.
    pub exif: Option<&'a [u8]>,
    /// The file once more, with nothing in it but what decoding needs: no metadata, no bytes between segments, and no
    /// trailer. Behind the data of each scan come ones, which no Huffman code may consist of (T.81, annex C): a decoder
    /// that runs out of data fails on them. On an end marker it would make the missing part up, without an error.
    pub stream: Vec<u8>,
}

/// What has been read of a file.
struct Reading<'a> {
    frame: Option<Frame>,
    jfif: bool,
    /// Adobe's word on the colours.
    adobe: Option<u8>,
    exif: Option<&'a [u8]>,
    scans: usize,
    /// Units of the picture from one restart marker to the next; 0 without.
    interval: u16,
    /// Restart markers in the last scan.
    restarts: u64,
    stream: Vec<u8>,
}

/// Goes through the file until every coefficient of every component has come; what follows does not belong to the picture.
/// The error says in words what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Segments<'_>, String> {
    let mut stream = Vec::with_capacity(bytes.len() + 4 * ONES);
    stream.extend([0xff, SOI]);
    let (jfif, adobe, exif) = (false, None, None);
    let mut reading = Reading { frame: None, jfif, adobe, exif, scans: 0, interval: 0, restarts: 0, stream };
    let mut at = 2;
    loop {
        let segment = next_segment(bytes, at).ok_or("the JPEG is cut short")?;
        at = segment.end;
        match segment.marker {
            SOI | EOI => return Err("the JPEG is cut short: it ends before all its scans have come".to_owned()),
            SOS => {
                let end;
                (end, reading.restarts) = entropy_end(bytes, at);
                let complete = reading.scan(&segment, &bytes[at..end])?;
                at = end;
                if complete {
                    return reading.finish(matches!(bytes.get(at..at + 2), Some([0xff, EOI | DNL])));
                }
            }
            _ => reading.note(&segment)?,
        }
    }
}

impl<'a> Reading<'a> {
    /// Takes note of a segment that is no scan.
    fn note(&mut self, segment: &Segment<'a>) -> Result<(), String> {
        let keep = match (segment.marker, segment.body) {
            (DHT | DQT, _) => true,
            (DRI, body) => {
                self.interval = if let &[high, low] = body { u16::from_be_bytes([high, low]) } else { 0 };
                true
            }
            (APP0, body) => {
                self.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0");
                // Frames of a motion JPEG come without Huffman tables; this says so.
                true
            }
            (APP1, body) => {
                self.exif = self.exif.or(body.strip_prefix(b"Exif\0\0"));
                false
            }
            (APP14, &[b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                self.adobe = Some(transform);
                false
            }
            // Start of a frame, of any kind; F7 is that of JPEG-LS.
            (0xc0..=0xcf | 0xf7, _) if self.frame.is_some() => return Err("the JPEG has two frames".to_owned()),
            (marker @ (0xc0..=0xcf | 0xf7), body) => {
                self.frame = Some(Frame::parse(marker, body)?);
                true
            }
            _ => false,
        };
        if keep {
            self.stream.extend(segment.whole);
        }
        Ok(())
    }

    /// Takes note of a scan and its data. True if the picture is complete with it.
    fn scan(&mut self, header: &Segment<'_>, data: &[u8]) -> Result<bool, String> {
        let frame = self.frame.as_mut().ok_or("the JPEG has a scan before its header")?;
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(format!("the JPEG has more than {MAX_SCANS} scans"));
        }
        frame.scan(header.body, data)?;
        self.stream.extend(header.whole);
        // Without the fill bytes before the next marker.
        self.stream.extend(&data[..data.iter().rposition(|&byte| byte != 0xff).map_or(0, |last| last + 1)]);
        // A refining scan has single bits between its codes.
        let refining = header.body.last().is_some_and(|last| last >> 4 != 0);
        let ones = ONES + if refining { data.len() } else { 0 };
        self.stream.extend([0xff, 0x00].repeat(ones));
        Ok(frame.is_complete())
    }

    fn finish(mut self, ended: bool) -> Result<Segments<'a>, String> {
        self.stream.extend([0xff, EOI]);
        let frame = self.frame.ok_or("the JPEG has no header")?;
        let colours = frame.colours(self.jfif, self.adobe);
        let [across, down] = frame.units();
        let restarts_due = (u64::from(across) * u64::from(down) - 1).checked_div(self.interval.into()).unwrap_or(0);
        Ok(Segments {
            width: frame.width,
            height: frame.height,
            channels: frame.channels(),
            colours,
            plain: self.scans == 1 && self.restarts == restarts_due && frame.is_plain(colours),
            ended,
            exif: self.exif,
            stream: self.stream,
        })
    }
}

struct Segment<'a> {
    marker: u8,
    /// Without marker and length.
    body: &'a [u8],
    whole: &'a [u8],
    end: usize,
}

/// The segment at or after `at`; bytes in front of it are passed over, as libjpeg does.
fn next_segment(bytes: &[u8], mut at: usize) -> Option<Segment<'_>> {
    loop {
        at = find_marker(bytes, at)?;
        match *bytes.get(at + 1)? {
            0x00 | 0xff => at += 1,
            // Markers that stand alone, without a length.
            0x01 | 0xd0..=0xd7 => at += 2,
            marker @ (SOI | EOI) => return Some(Segment { marker, body: &[], whole: &[], end: at + 2 }),
            marker => {
                let length = usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]));
                let end = at + 2 + length;
                return Some(Segment { marker, body: bytes.get(at + 4..end)?, whole: bytes.get(at..end)?, end });
            }
        }
    }
}

/// Where the data of a scan end that begin at `at`, before the first other marker or where the file ends; and how many restart
/// markers are in them.
fn entropy_end(bytes: &[u8], mut at: usize) -> (usize, u64) {
    let mut restarts = 0;
    while let Some(marker) = find_marker(bytes, at) {
        at = marker;
        match bytes.get(at + 1) {
            Some(0x00) => at += 2,
            Some(0xd0..=0xd7) => {
                restarts += 1;
                at += 2;
            }
            Some(0xff) => at += 1,
            _ => return (at, restarts),
        }
    }
    (bytes.len(), restarts)
}

/// Where the next byte FF is.
fn find_marker(bytes: &[u8], at: usize) -> Option<usize> {
    let mut rest = bytes.get(at..)?;
    // The standard library's fast search for a byte.
    let passed = rest.skip_until(0xff).ok()?;
    bytes[at..at + passed].ends_with(&[0xff]).then(|| at + passed - 1)
}
