//! Routes: leading a direct call or jump from one target to another while threads run through it, wherever it
//! lies.
//!
//! Its displacement is four bytes, perhaps across two cache lines, and each can only be changed alone. So
//! what it says in between must be right as well. Each such call has a *gate* that leads to its target too,
//! and *islands*, jumps to that gate, at the addresses which the displacement names on the way:
//!
//! ```text
//!                          byte  3  2  1  0
//! station 0  gate                g3 g2 g1 g0
//! station 1  an island           z  g2 g1 g0       z is g3 + distance: as many times 16 MiB away
//! station 2  an island           z  t2 g1 g0
//! station 3  an island           z  t2 t1 g0
//! station 4  an island           z  t2 t1 t0
//! station 5  target              t3 t2 t1 t0
//! ```
//!
//! Two neighbouring stations differ in one byte. Callers move a station at a time, with a barrier after each,
//! so that no thread has fetched half of one step and half of the next. To another target they go back to
//! station 1; then the gate is re-pointed, while nobody goes to the old target any more; then forth. Whoever
//! stands still on an island, for however long, goes where the gate leads. What fails in between leaves
//! callers on islands, and right.
//!
//! The bytes are behind a trait, so that a model checker can run the same code on simulated ones
//! (`crates/relpoline/tests/external/model`).

use crate::text::TextError;

/// Bytes of a displacement, with which the instruction ends.
pub const FIELD: u64 = 4;
/// Station of the gate.
pub const GATE: usize = 0;
/// Station that differs from the gate in the highest byte alone.
pub const AWAY: usize = 1;
/// Station of the target.
pub const TARGET: usize = 5;
/// The order in which bytes change between stations 0 and 5.
const ORDER: [usize; TARGET] = [3, 2, 1, 0, 3];

/// What the displacement of a caller says on its way from the gate to a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route([i32; TARGET + 1]);

impl Route {
    /// The route of a caller from displacement `gate` to displacement `target` by way of islands that are
    /// `distance` times 16 MiB from the gate. `None` when a displacement does not reach so far.
    #[must_use]
    pub fn new(gate: i32, distance: i8, target: i32) -> Option<Route> {
        let mut bytes = gate.to_le_bytes();
        let to = target.to_le_bytes();
        let away = bytes[3].cast_signed().checked_add(distance)?.cast_unsigned();
        let mut stations = [gate; TARGET + 1];
        for (n, (station, byte)) in stations.iter_mut().skip(1).zip(ORDER).enumerate() {
            bytes[byte] = if n == 0 { away } else { to[byte] };
            *station = i32::from_le_bytes(bytes);
        }
        Some(Route(stations))
    }

    /// The displacement at a station.
    ///
    /// # Panics
    /// When there is no such station.
    #[must_use]
    pub fn at(&self, station: usize) -> i32 {
        self.0[station]
    }

    /// The displacements at which there must be islands.
    pub fn islands(self) -> impl Iterator<Item = i32> {
        self.0.into_iter().skip(AWAY).take(TARGET - AWAY).filter(move |rel| *rel != self.0[TARGET])
    }
}

/// Text with callers in it.
pub trait Bytes {
    /// The displacement at `field`, as it is now.
    fn displacement(&self, field: u64) -> i32;

    /// Changes one byte that threads may be executing.
    ///
    /// # Errors
    /// Nothing has changed then.
    fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), TextError>;

    /// Returns after every thread has noticed what was changed so far.
    ///
    /// # Errors
    /// Nothing is promised then about threads that were running just now.
    fn fence(&mut self) -> Result<(), TextError>;
}

/// Takes the caller whose displacement is at `field` a station on, towards station `to`. Whether it moved.
///
/// # Errors
/// It has not moved; [`TextError::Changed`] if it is at none of its stations.
///
/// # Panics
/// When there is no station `to`.
pub fn step(text: &mut impl Bytes, field: u64, route: &Route, to: usize) -> Result<bool, TextError> {
    let seen = text.displacement(field);
    if seen == route.at(to) {
        return Ok(false);
    }
    // Neighbours may be the same.
    let last = route.0.iter().rposition(|&s| s == seen).ok_or(TextError::Changed)?;
    let first = route.0.iter().position(|&s| s == seen).unwrap_or(last);
    let next = if last < to { last + 1 } else { first - 1 };
    let next = if cfg!(relpoline_broken = "straight-across") { to } else { next };
    let (old, new) = (seen.to_le_bytes(), route.at(next).to_le_bytes());
    // Two neighbours differ in one byte. In the broken variant that the tests must catch there is no way in
    // between.
    for (n, (old, new)) in old.into_iter().zip(new).enumerate().filter(|(_, (old, new))| old != new) {
        text.byte(field + n as u64, old, new)?;
    }
    Ok(true)
}

/// Takes callers to station `to`, all of them a station at a time, with a barrier after each.
///
/// # Errors
/// The first that was met. Callers are somewhere on their way then, and those that could be moved have been.
///
/// # Panics
/// When there is no station `to`.
pub fn walk(
    text: &mut impl Bytes,
    callers: impl Iterator<Item = (u64, Route)> + Clone,
    to: usize,
) -> Result<(), TextError> {
    let mut refused = Ok(());
    for _ in 0..TARGET {
        let mut moved = false;
        for (field, route) in callers.clone() {
            match step(text, field, &route, to) {
                Ok(step) => moved |= step,
                Err(refusal) => refused = Err(refusal),
            }
        }
        text.fence()?;
        if !moved {
            break;
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Two neighbouring stations differ in one byte, and those between gate and target lie at the
        /// distance.
        #[test]
        fn neighbours_differ_in_a_byte(gate: i32, target: i32, distance in -120i8..120) {
            prop_assume!(distance != 0);
            let Some(route) = Route::new(gate, distance, target) else { return Ok(()) };
            prop_assert_eq!((route.at(GATE), route.at(TARGET)), (gate, target));
            for pair in route.0.windows(2) {
                let changed = (0..4).filter(|&n| pair[0].to_le_bytes()[n] != pair[1].to_le_bytes()[n]).count();
                prop_assert!(changed <= 1, "{:x?}", route);
            }
            for station in AWAY..TARGET {
                prop_assert_eq!((route.at(station) >> 24) - (gate >> 24), i32::from(distance));
            }
        }
    }
}
