//! Queues and stacks: values in the order in which they were pushed.

use super::MapError;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// See the module's text.
#[derive(Debug)]
pub struct Line {
    values: Mutex<VecDeque<Box<[u8]>>>,
    most: usize,
    /// Whether the last in is the first out.
    stack: bool,
}

impl Line {
    /// A line of at most `most` values.
    pub fn new(most: u32, stack: bool) -> Line {
        Line { values: Mutex::default(), most: most as usize, stack }
    }

    fn values(&self) -> std::sync::MutexGuard<'_, VecDeque<Box<[u8]>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a value; where there is no room, in place of the oldest one, or not at all.
    pub fn push(&self, value: Vec<u8>, replace: bool) -> Result<(), MapError> {
        let mut values = self.values();
        if values.len() == self.most {
            if !replace {
                return Err(MapError::Full);
            }
            values.pop_front();
        }
        values.try_reserve(1).map_err(|_| MapError::NoMemory)?;
        values.push_back(value.into());
        Ok(())
    }

    /// The next value, taken out or not.
    pub fn next(&self, take: bool) -> Option<Vec<u8>> {
        let mut values = self.values();
        let value = match (take, self.stack) {
            (true, true) => values.pop_back(),
            (true, false) => values.pop_front(),
            (false, true) => values.back().cloned(),
            (false, false) => values.front().cloned(),
        };
        value.map(Vec::from)
    }

    /// All values, in the order in which they were pushed.
    pub fn all(&self) -> Vec<Vec<u8>> {
        self.values().iter().map(|value| value.to_vec()).collect()
    }
}
