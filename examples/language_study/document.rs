//! The document: its rules, which are there before the first run, and then what came of the runs.

use std::fmt::Write;

use crate::arms::{Arm, FULL, IN_TIME};
use crate::runs::{Plan, Run};
use crate::study::results::{differences, of};
use crate::study::spread::Spread;

/// What stands at its head.
pub struct Head {
    pub text: String,
    pub adapter: String,
    pub seeds: u64,
    /// The share of full length's layer tokens that each arm's steps save.
    pub saved: Vec<f64>,
}

/// What came of one kind of model.
pub struct Chapter {
    title: &'static str,
    about: String,
    body: String,
}

impl Chapter {
    pub fn new((title, about): &(&'static str, String), arms: &[Arm], runs: &[Run], plan: Option<&Plan>) -> Self {
        let body = match plan {
            Some(plan) if !runs.is_empty() => {
                let verdicts: Vec<String> = arms.iter().filter_map(|arm| verdict(arm, runs)).collect();
                format!("{}\n{}\n", table(arms, runs, plan), verdicts.join("\n"))
            }
            _ => "No run has ended yet.\n".to_owned(),
        };
        Chapter { title, about: about.clone(), body }
    }
}

/// The document.
pub fn whole(head: &Head, arms: &[Arm], chapters: &[&Chapter]) -> String {
    let mut text = rules(head, arms);
    for Chapter { title, about, body } in chapters {
        // A String takes whatever is written to it.
        let _ = write!(text, "\n## {title}\n\n{about}\n\n{body}");
    }
    text
}

fn rules(head: &Head, arms: &[Arm]) -> String {
    let Head { text, adapter, seeds, saved } = head;
    let list: String = arms.iter().zip(saved).map(|(arm, &saved)| item(arm, saved)).collect();
    format!(
        "# random-LTD in pretraining, beside its rivals\n\n\
         Made by `examples/language_study`, which writes this file from its runs.\n\n\
         ## Rules, fixed before the first run\n\n\
         A small GPT and a small BERT learn from scratch what poets wrote: {text}. On {adapter}.\n\n\
         {list}\n\
         The kept length of random-LTD rises from a quarter of the tokens to all of them over 70 % of the steps, in \
         steps of 16; half of the tokens are kept for 52.5 % of them; TokenBypass leaves out the tokens of the least \
         loss of late, throughout. All but the first and the last block drop tokens. The three were to save about as \
         many layer tokens, but steps of 16 lie below the straight line by which that was reckoned: random-LTD saves \
         more.\n\n\
         Seeds 0 to {last}, for each arm the same: they draw the first weights, the order of the text and the dropped tokens. Nothing was \
         tuned for one arm, and no run is left out. The last weights are tested, once, on the documents held out. The number of \
         steps in the time of random-LTD follows from the times of a step, taken in turns at each length before the first run; so do the times \
         below, while `wall` is what the runs took beside whatever else the machine did.\n\n\
         Judged is the perplexity on held-out text, over that of the same seed's run of another arm: the mean of the \
         logarithms, with its 95 % interval by Student's t. An arm is called better or worse where the interval does not hold 0 %, \
         and not told apart otherwise. That of a BERT is of the tokens that were taken away.\n",
        last = seeds - 1
    )
}

/// An arm in the list, with what it saves.
fn item(arm: &Arm, saved: f64) -> String {
    let saving = if saved > 0.0 { format!("; {:.1} % fewer layer tokens", 100.0 * saved) } else { String::new() };
    format!("- `{}`: {}{saving}\n", arm.name, arm.what)
}

fn table(arms: &[Arm], runs: &[Run], plan: &Plan) -> String {
    let mut text = String::from(
        "| arm | seeds | perplexity | over full length's (95 %) | over full length's in equal time (95 %) | steps | time / full | wall, s | layer tokens / full |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let tokens = |arm: &str| of(runs, arm).first().map_or(f64::NAN, |run| run.layer_tokens as f64);
    for arm in arms {
        let own = of(runs, arm.name);
        let Some(first) = own.first() else { continue };
        let perplexity = Spread::of(&own.iter().map(|run| run.test_loss.exp()).collect::<Vec<_>>());
        let deviation = if own.len() > 1 { format!(" ± {:.2}", perplexity.deviation) } else { String::new() };
        let wall = Spread::of(&own.iter().map(|run| run.wall_seconds).collect::<Vec<_>>()).mean;
        let time = plan.time.get(arm.name).copied().unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| `{}` | {} | {:.2}{deviation} | {} | {} | {} | {time:.3} | {wall:.0} | {:.3} |",
            arm.name,
            own.len(),
            perplexity.mean,
            ratio(arm, FULL, runs).map_or_else(String::new, |ratio| ratio.shown()),
            ratio(arm, IN_TIME, runs).map_or_else(String::new, |ratio| ratio.shown()),
            first.steps,
            tokens(arm.name) / tokens(FULL)
        );
    }
    text
}

/// How much larger an arm's perplexity is than another's, in %, with the ends of its 95 % interval.
struct Ratio {
    mean: f64,
    interval: Option<[f64; 2]>,
}

impl Ratio {
    fn shown(&self) -> String {
        match self.interval {
            Some([low, high]) => format!("{:+.2} % ({low:+.2} to {high:+.2})", self.mean),
            None => format!("{:+.2} %", self.mean),
        }
    }
}

fn ratio(arm: &Arm, other: &str, runs: &[Run]) -> Option<Ratio> {
    let values = differences(runs, arm.name, other, |run| run.test_loss);
    if arm.name == other || values.is_empty() {
        return None;
    }
    let spread = Spread::of(&values);
    let percent = |log: f64| 100.0 * log.exp_m1();
    let interval = spread.half_width().map(|half| [percent(spread.mean - half), percent(spread.mean + half)]);
    Some(Ratio { mean: percent(spread.mean), interval })
}

/// Where an arm wins and where it loses, as far as the runs tell.
fn verdict(arm: &Arm, runs: &[Run]) -> Option<String> {
    let against = |other: &str, words: &str| {
        let judged = match ratio(arm, other, runs)?.interval? {
            [_, high] if high < 0.0 => "better than",
            [low, _] if low > 0.0 => "worse than",
            _ => "not told apart from",
        };
        Some(format!("{judged} {words}"))
    };
    let judged = [against(FULL, "full length"), against(IN_TIME, "full length in equal time")];
    let judged: Vec<String> = judged.into_iter().flatten().collect();
    (!judged.is_empty()).then(|| format!("- `{}`: {}.", arm.name, judged.join(", ")))
}
