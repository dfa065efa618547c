//! Medians and spread of measured rounds.

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

    /// Round by round, what `runs` are relative to `base`: rounds drift together, so their ratios spread less.
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

    #[test]
    fn ratios_are_of_the_same_round() {
        let sample = Sample::of_ratios(&[2.0, 20.0, 6.0], &[1.0, 10.0, 2.0]);
        assert!((sample.median - 2.0).abs() < 1e-9 && (sample.max - 3.0).abs() < 1e-9);
        assert_eq!(Sample::of(&[]), Sample::default());
    }
}
