//! Medians, spread and intervals of measured rounds.

use serde::Serialize;

/// A handful of measurements of the same thing.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Sample {
    /// The one in the middle.
    pub median: f64,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
}

impl Sample {
    /// Of these; zeros of none.
    #[must_use]
    pub fn of(runs: &[f64]) -> Self {
        if runs.is_empty() {
            return Self::default();
        }
        Self {
            median: median(runs),
            min: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max: runs.iter().copied().fold(0.0, f64::max),
        }
    }

    /// Likewise, of differences, which may all be below zero.
    #[must_use]
    pub fn of_any(runs: &[f64]) -> Self {
        Self { max: runs.iter().copied().reduce(f64::max).unwrap_or_default(), ..Self::of(runs) }
    }

    /// Round by round, what `runs` are relative to `base`: rounds drift together, so their ratios spread
    /// less.
    #[must_use]
    pub fn of_ratios(runs: &[f64], base: &[f64]) -> Self {
        let ratios: Vec<f64> =
            runs.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(run, base)| run / base).collect();
        Self::of(&ratios)
    }

    /// How far apart the runs were, relative to the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / self.median } else { 0.0 }
    }
}

/// A median, and an interval in which the median of all rounds that could be measured lies.
///
/// It is made of order statistics: of *n* rounds, each lies below that median with probability ½, whatever
/// the distribution. With five rounds or fewer the whole range has less than 95 % ([`Interval::confidence`]).
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Interval {
    /// The one in the middle.
    pub median: f64,
    /// The interval's low end.
    pub low: f64,
    /// The interval's high end.
    pub high: f64,
    /// The probability that it holds the true median: at least 0.95 from six rounds on.
    pub confidence: f64,
}

impl Interval {
    /// Of these; zeros of none.
    #[must_use]
    pub fn of(runs: &[f64]) -> Self {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (outside, confidence) = order(sorted.len());
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let last = sorted.len().saturating_sub(1);
        Self { median: median(runs), low: at(outside), high: at(last.saturating_sub(outside)), confidence }
    }

    /// Of `change` applied to each end; it may turn them round.
    #[must_use]
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        let (a, b) = (change(self.low), change(self.high));
        Self { median: change(self.median), low: a.min(b), high: a.max(b), confidence: self.confidence }
    }

    /// How far its farther end is from the median.
    #[must_use]
    pub fn reach(&self) -> f64 {
        (self.high - self.median).max(self.median - self.low)
    }
}

/// How many of *n* sorted rounds lie outside the interval at each end, and how sure it is.
#[expect(clippy::cast_precision_loss, reason = "a few hundred rounds")]
fn order(rounds: usize) -> (usize, f64) {
    // Of the binomial distribution: the probability that exactly, and at most, so many lie below the median.
    let mut exactly = 0.5_f64.powi(i32::try_from(rounds).unwrap_or(i32::MAX));
    let mut at_most = exactly;
    let mut found = (0, (1.0 - 2.0 * at_most).max(0.0));
    for outside in 1..rounds.div_ceil(2) {
        exactly *= (rounds + 1 - outside) as f64 / outside as f64;
        at_most += exactly;
        if 2.0 * at_most > 0.05 {
            break;
        }
        found = (outside, 1.0 - 2.0 * at_most);
    }
    found
}

/// The one in the middle, or between the two.
#[must_use]
pub fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |index: usize| sorted.get(index).copied().unwrap_or_default();
    f64::midpoint(middle(sorted.len() / 2), middle(sorted.len().saturating_sub(1) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    /// The table in every book on order statistics.
    #[test]
    fn intervals_are_those_of_the_sign_test() {
        for (rounds, outside) in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (15, 3), (20, 5), (25, 7)] {
            assert_eq!(order(rounds).0, outside, "{rounds}");
        }
        assert!((order(5).1 - 0.9375).abs() < 1e-9 && (order(6).1 - 0.96875).abs() < 1e-9);
        let interval = Interval::of(&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert!((interval.low - 2.0).abs() < 1e-9 && (interval.high - 8.0).abs() < 1e-9);
        let saved = interval.map(|ratio| 1.0 - ratio);
        assert!(
            (saved.low + 7.0).abs() < 1e-9 && (saved.high + 1.0).abs() < 1e-9 && (saved.reach() - 3.0).abs() < 1e-9
        );
        assert_eq!(Interval::of(&[]).confidence.to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let sample = Sample::of_ratios(&[2.0, 20.0, 6.0], &[1.0, 10.0, 2.0]);
        assert!((sample.median - 2.0).abs() < 1e-9 && (sample.max - 3.0).abs() < 1e-9);
        assert_eq!(Sample::of(&[]), Sample::default());
    }
}
