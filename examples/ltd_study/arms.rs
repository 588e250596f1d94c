//! What is compared.

use anyhow::Result;
use wgrad::ltd::{PatchDrop, Schedule, TokenDrop};
use wgrad::nn::Extent;

use crate::ltd_drop::{KeptLength, Ltd};
use crate::patch_drop;

/// The arm that all others are compared with.
pub const FULL: &str = "full";

/// One way to train.
pub struct Arm {
    pub name: &'static str,
    /// For the table.
    pub what: String,
    pub kind: Kind,
    /// Whether low-rank adapters and the head are trained, and the rest is frozen.
    pub adapters: bool,
}

/// Shares are of a run's steps, or of what the model sees.
#[derive(Clone)]
pub enum Kind {
    /// All tokens, for a share of the steps, with a schedule of its own.
    Full { steps: f64 },
    /// All tokens of pictures of three quarters of the side, then all of whole ones.
    LowResolution { until: f64 },
    /// random-LTD.
    Ltd(Ltd),
    /// So many of the tokens go through the model, all from `until` on.
    PatchDrop { kept: usize, until: f64 },
    /// This share of the samples go through each block but the first and the last.
    SubBatch { share: f64 },
    /// The head alone, for so many epochs on features that are computed once, without augmentation.
    Probe { epochs: u64 },
}

/// Every arm for a model of `tokens` tokens.
pub fn all(tokens: usize) -> Vec<Arm> {
    let [half, most] = [tokens.div_ceil(2), (3 * tokens).div_ceil(4)];
    let arm = |name, what: String, kind| Arm { name, what, kind, adapters: false };
    let kept = |start| {
        let what = format!("random-LTD {start} to {tokens} over 80 %, class token kept");
        (what, rising(start, tokens, 0.8, 1, Schedule::linear))
    };
    let ltd = |name, start| {
        let (what, kind) = kept(start);
        arm(name, what, kind)
    };
    let with_adapters =
        |name, (what, kind): (String, Kind)| Arm { name, what: format!("LoRA; {what}"), kind, adapters: true };
    let deepspeed = rising(16, tokens, 0.7, 0, Schedule::fixed_linear);
    vec![
        arm(FULL, "full length".to_owned(), Kind::Full { steps: 1.0 }),
        arm("full-75", "full length, three quarters of the steps".to_owned(), Kind::Full { steps: 0.75 }),
        arm("full-50", "full length, half of the steps".to_owned(), Kind::Full { steps: 0.5 }),
        arm(
            "low-full",
            "three quarters of the side for 60 % of the steps, then full".to_owned(),
            Kind::LowResolution { until: 0.6 },
        ),
        arm("patchdrop", format!("PatchDropout {half}"), Kind::PatchDrop { kept: half, until: 1.0 }),
        arm(
            "patchdrop-80",
            format!("PatchDropout {half}, full length for the last 20 %"),
            Kind::PatchDrop { kept: half, until: 0.8 },
        ),
        arm("ltd-deepspeed", format!("random-LTD 16 to {tokens} over 70 %, as DeepSpeed does it"), deepspeed),
        ltd("ltd-half", half),
        ltd("ltd-most", most),
        arm(
            "sub-batch",
            "stochastic depth by sub-batches of 4 in 5, first and last block whole".to_owned(),
            Kind::SubBatch { share: 0.8 },
        ),
        arm("probe", "linear probe, 100 epochs on features computed once".to_owned(), Kind::Probe { epochs: 100 }),
        with_adapters("lora", ("full length".to_owned(), Kind::Full { steps: 1.0 })),
        with_adapters("lora-ltd", kept(half)),
    ]
}

fn rising(start: usize, end: usize, ramp: f64, keep_prefix: usize, schedule: crate::ltd_drop::Rise) -> Kind {
    let length = KeptLength::Rising { start, end, ramp, granularity: 8, schedule };
    Kind::Ltd(Ltd { length, blocks: None, keep_prefix })
}

impl Arm {
    /// The learning rates that are tried: a factor of three apart, or of ten where an epoch costs nothing.
    pub fn rates(&self) -> [f32; 3] {
        match self.kind {
            Kind::Probe { .. } => [1e-4, 1e-3, 1e-2],
            _ if self.adapters => [1e-3, 3e-3, 1e-2],
            _ => [1e-5, 3e-5, 1e-4],
        }
    }

    /// Its steps, of so many that full length has in an epoch or more.
    pub fn steps(&self, whole: u64) -> u64 {
        match self.kind {
            Kind::Full { steps } => (steps * whole as f64).round() as u64,
            Kind::Probe { epochs } => epochs * whole,
            _ => whole,
        }
    }

    /// The tokens that a run of `steps` steps drops.
    pub fn drop(&self, extent: Extent, steps: u64, seed: u64) -> Result<TokenDrop> {
        let Extent { depth, tokens, prefix } = extent;
        match &self.kind {
            Kind::Full { .. } | Kind::LowResolution { .. } | Kind::SubBatch { .. } | Kind::Probe { .. } => {
                Ok(TokenDrop::None)
            }
            Kind::Ltd(ltd) => ltd.in_run(depth, tokens, steps, seed),
            &Kind::PatchDrop { kept, until } => {
                Ok(patch_drop::in_run(PatchDrop::new(kept, prefix)?, until, steps, seed))
            }
        }
    }
}
