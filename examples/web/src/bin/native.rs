//! The page's lesson outside a browser: its losses and their pace, as JSON, to hold the page's own beside them.
//!
//!     cargo run --release --bin native [STEPS]

use std::error::Error;
use std::time::{Duration, Instant};

use wgrad::gpu::{Gpu, GpuOptions};
use wgrad_page::lesson::Lesson;

fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(20), |text| text.parse())?;
    pollster::block_on(run(steps))
}

async fn run(steps: usize) -> Result<(), Box<dyn Error>> {
    let gpu = Gpu::request(&GpuOptions::default()).await?;
    let adapter = gpu.info().to_string();
    let mut lesson = Lesson::new(gpu)?;
    let (mut losses, mut clock) = (Vec::new(), Instant::now());
    while losses.len() < steps {
        let ended = lesson.train(Duration::from_millis(8))?;
        // The first step also compiles.
        if losses.is_empty() && !ended.is_empty() {
            clock = Instant::now();
        }
        losses.extend(ended.iter().map(|step| step.loss));
        std::thread::sleep(Duration::from_millis(1));
    }
    let steps_per_second = (losses.len() - 1) as f64 / clock.elapsed().as_secs_f64();
    let accuracy = lesson.accuracy().await?;
    let report = serde_json::json!({
        "adapter": adapter, "losses": losses, "steps_per_second": steps_per_second, "accuracy": accuracy,
    });
    println!("{report}");
    Ok(())
}
