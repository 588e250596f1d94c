//! The header of a JPEG and what its scans bring, ITU-T T.81 B.2.2 and B.2.3.

use jpeg_decoder::ColorTransform;

/// One colour channel.
#[derive(Clone, Copy)]
struct Component {
    id: u8,
    /// Samples across and down in one unit of the picture.
    sampling: [u32; 2],
    /// The coefficients that have not come yet in full precision, a bit for each.
    missing: u64,
}

/// The header of the picture, and how much of the picture has come.
pub(super) struct Frame {
    pub width: u32,
    pub height: u32,
    progressive: bool,
    components: Vec<Component>,
}

impl Frame {
    /// From the marker and the body of a start-of-frame segment. The error says in words what is wrong, or not read.
    pub(super) fn parse(marker: u8, body: &[u8]) -> Result<Self, String> {
        let not_read =
            |what: &str| Err(format!("is {what}, which is not read: save it as a baseline or progressive JPEG"));
        match marker {
            // Baseline, extended, progressive.
            0xc0..=0xc2 => {}
            0xc3 | 0xcb => return not_read("a lossless JPEG"),
            0xc9 | 0xca | 0xcc => return not_read("an arithmetic-coded JPEG"),
            0xf7 => return not_read("a JPEG-LS picture"),
            _ => return not_read("a hierarchical JPEG"),
        }
        let &[precision, h0, h1, w0, w1, count, ref rest @ ..] = body else {
            return Err("the JPEG's header is damaged".to_owned());
        };
        if precision != 8 {
            return not_read(&format!("a {precision}-bit JPEG"));
        }
        let (width, height) = (u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into());
        if height == 0 {
            return not_read("a JPEG without its height (it comes in a later DNL segment)");
        }
        let component = |bytes: &[u8]| {
            let sampling = [bytes[1] >> 4, bytes[1] & 15].map(u32::from);
            Component { id: bytes[0], sampling, missing: u64::MAX }
        };
        let components: Vec<_> = rest.chunks_exact(3).map(component).collect();
        let sound = components.iter().all(|component| component.sampling.iter().all(|factor| (1..=4).contains(factor)));
        if width == 0 || !matches!(count, 1 | 3 | 4) || components.len() != usize::from(count) || !sound {
            return Err("the JPEG's header is damaged, or has other than 1, 3 or 4 colour channels".to_owned());
        }
        Ok(Frame { width, height, progressive: marker == 0xc2, components })
    }

    /// Colour channels: 1, 3 or 4.
    pub(super) fn channels(&self) -> usize {
        self.components.len()
    }

    /// Whether all coefficients have come.
    pub(super) fn is_complete(&self) -> bool {
        self.components.iter().all(|component| component.missing == 0)
    }

    /// The largest sampling factors, across and down.
    fn most(&self) -> [u32; 2] {
        [0, 1].map(|axis| self.components.iter().map(|component| component.sampling[axis]).max().unwrap_or(1))
    }

    /// Units of the picture across and down: what an interleaved scan is made of.
    pub(super) fn units(&self) -> [u32; 2] {
        let [across, down] = self.most();
        [self.width.div_ceil(8 * across), self.height.div_ceil(8 * down)]
    }

    /// Takes note of a scan with this header and these data. Refuses what the decoder gets wrong, and data that are too few
    /// for the picture's size.
    pub(super) fn scan(&mut self, header: &[u8], data: &[u8]) -> Result<(), String> {
        const DAMAGED: &str = "a scan header of the JPEG is damaged";
        let (&count, rest) = header.split_first().ok_or(DAMAGED)?;
        let count = usize::from(count);
        let (Some(chosen), Some(&[first, last, precision])) = (rest.get(..2 * count), rest.get(2 * count..)) else {
            return Err(DAMAGED.to_owned());
        };
        let (first, last, low) = if self.progressive { (first, last, precision & 15) } else { (0, 63, 0) };
        if first > last || last > 63 {
            return Err(DAMAGED.to_owned());
        }
        let (most, [unit_columns, unit_rows]) = (self.most(), self.units());
        let mut blocks = 0;
        for id in chosen.iter().step_by(2) {
            let component = self.components.iter_mut().find(|component| component.id == *id).ok_or(DAMAGED)?;
            let [across, down] = component.sampling;
            if count > 1 {
                blocks += u64::from(unit_columns * across) * u64::from(unit_rows * down);
            } else {
                // The decoder takes such a component's padding for data.
                if (0..2).any(|axis| 1 < component.sampling[axis] && component.sampling[axis] < most[axis]) {
                    let [h, v] = most;
                    return Err(format!(
                        "is a JPEG with a scan of one channel sampled {across}x{down} of {h}x{v}: it is not read"
                    ));
                }
                let columns = (self.width * across).div_ceil(8 * most[0]);
                blocks += u64::from(columns) * u64::from((self.height * down).div_ceil(8 * most[1]));
            }
            if low == 0 {
                component.missing &= !((u64::MAX << first) & (u64::MAX >> (63 - last)));
            }
        }
        // A first coefficient takes one bit or more.
        if first == 0 && blocks > 8 * data.len() as u64 {
            return Err("the JPEG is cut short".to_owned());
        }
        Ok(())
    }

    /// Whether the frame is as `Segments::plain` says.
    pub(super) fn is_plain(&self, colours: ColorTransform) -> bool {
        let usual = match &self.components[..] {
            [grey] => grey.sampling == [1, 1],
            // Components called so may be taken for RGB, whatever else the file says.
            [red, green, blue] if [red.id, green.id, blue.id] == *b"RGB" => false,
            [luma, cb, cr] => {
                let halved = luma.sampling.iter().all(|&factor| factor <= 2);
                colours == ColorTransform::YCbCr && halved && cb.sampling == [1, 1] && cr.sampling == [1, 1]
            }
            _ => false,
        };
        usual && !self.progressive
    }

    /// What the channels are: the rules of libjpeg (`default_decompress_parms` in its jdapimin.c).
    pub(super) fn colours(&self, jfif: bool, adobe: Option<u8>) -> ColorTransform {
        match (&self.components[..], adobe) {
            ([_], _) => ColorTransform::Grayscale,
            ([_, _, _], _) if jfif => ColorTransform::YCbCr,
            ([_, _, _], Some(0)) => ColorTransform::RGB,
            ([Component { id: b'R', .. }, Component { id: b'G', .. }, Component { id: b'B', .. }], None) => {
                ColorTransform::RGB
            }
            ([_, _, _], _) => ColorTransform::YCbCr,
            (_, None | Some(0)) => ColorTransform::CMYK,
            _ => ColorTransform::YCCK,
        }
    }
}
