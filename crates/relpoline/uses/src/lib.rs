//! Measures variants of one loop against each other, in turn, and prints a table.
//!
//! Rounds are interleaved, so that a busy machine disturbs all variants alike. What is printed is the median
//! with the range of the middle nine tenths, and the ratio of medians to the first variant.

use std::hint::black_box;
use std::time::Instant;

/// How often a variant's loop runs in one round.
pub const CALLS: u64 = 20_000;

/// A variant: its name, and its loop over the numbers 0 to [`CALLS`], whose result is kept from the
/// optimiser.
pub type Variant<'a> = (&'static str, Box<dyn FnMut() -> u64 + 'a>);

/// A loop of [`CALLS`] rounds, each of which makes `$x` from the last `$x`.
#[macro_export]
macro_rules! looped {
    ($x:ident => $body:expr) => {
        Box::new(|| {
            let mut $x = 1u64;
            for _ in 0..$crate::CALLS {
                $x = $body;
            }
            $x
        })
    };
}

/// Work of a few cycles that no two rounds can share.
#[inline(always)]
pub fn work(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    black_box(x ^ (x >> 29))
}

/// Rounds of each variant: 300, or three if the program is given `--quick`.
fn rounds() -> usize {
    if std::env::args().any(|argument| argument == "--quick") { 3 } else { 300 }
}

/// Measures and prints.
///
/// # Panics
/// When there is no variant.
pub fn compare(title: &str, variants: &mut [Variant<'_>]) {
    let mut samples = vec![Vec::new(); variants.len()];
    for _ in 0..rounds() {
        for ((_, run), samples) in variants.iter_mut().zip(&mut samples) {
            // One to get used to it.
            black_box(run());
            let start = Instant::now();
            black_box(run());
            samples.push(start.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
        }
    }
    samples.iter_mut().for_each(|samples| samples.sort_by(f64::total_cmp));
    let at = |samples: &[f64], share: usize| samples[(samples.len() - 1) * share / 100];
    println!("\n| {title} | ns | middle 90 % | ratio |\n|---|---|---|---|");
    let first = at(samples.first().expect("there is a variant"), 50);
    for ((name, _), samples) in variants.iter().zip(&samples) {
        let median = at(samples, 50);
        println!("| {name} | {median:.2} | {:.2} to {:.2} | {:.2} |", at(samples, 5), at(samples, 95), median / first);
    }
}
