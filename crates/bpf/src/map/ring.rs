//! A ring buffer of records from programs to the host.
//!
//! Records lie one behind the other in the map's memory and never wrap: one that does not fit before the end
//! begins at the front. What is known about them lies elsewhere, out of programs' reach.

use super::values::Values;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reserved,
    Submitted,
    Discarded,
}

#[derive(Debug)]
struct Record {
    offset: usize,
    len: usize,
    state: State,
}

/// See the module's text.
#[derive(Debug)]
pub struct Ring {
    size: usize,
    records: Mutex<VecDeque<Record>>,
}

impl Ring {
    /// A ring of `size` bytes.
    pub fn new(size: u32) -> Ring {
        Ring { size: size as usize, records: Mutex::default() }
    }

    fn records(&self) -> std::sync::MutexGuard<'_, VecDeque<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `len` bytes: its offset, or `None` when the ring is full or nothing is asked for.
    pub fn reserve(&self, len: usize) -> Option<usize> {
        if len == 0 {
            return None;
        }
        let room = len.checked_next_multiple_of(8)?;
        let mut records = self.records();
        let offset = match (records.front(), records.back()) {
            (Some(first), Some(last)) => {
                let (tail, head) = (first.offset, (last.offset + last.len).next_multiple_of(8));
                // Records lie either in one piece, or from `tail` to the end and again from the front.
                if last.offset >= tail {
                    if self.size - head >= room {
                        head
                    } else if tail >= room {
                        0
                    } else {
                        return None;
                    }
                } else if tail >= head && tail - head >= room {
                    head
                } else {
                    return None;
                }
            }
            _ if room <= self.size => 0,
            _ => return None,
        };
        records.push_back(Record { offset, len, state: State::Reserved });
        Some(offset)
    }

    /// Ends the reservation that begins at `offset`; false when there is none.
    pub fn finish(&self, offset: usize, submit: bool) -> bool {
        let mut records = self.records();
        let found = records.iter_mut().find(|r| r.offset == offset && r.state == State::Reserved);
        found.is_some_and(|record| {
            record.state = if submit { State::Submitted } else { State::Discarded };
            true
        })
    }

    /// Takes out what is submitted, up to the first record that is still reserved.
    pub fn consume(&self, values: &Values, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        loop {
            let bytes = {
                let mut records = self.records();
                match records.front() {
                    None | Some(Record { state: State::Reserved, .. }) => return count,
                    Some(_) => {}
                }
                let Some(record) = records.pop_front() else {
                    return count;
                };
                (record.state == State::Submitted).then(|| values.bytes_at(record.offset, record.len))
            };
            if let Some(bytes) = bytes {
                each(&bytes);
                count += 1;
            }
        }
    }
}
