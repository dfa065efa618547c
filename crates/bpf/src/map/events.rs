//! What programs say by `bpf_perf_event_output`: records in the order in which they came, for the host to
//! take out.
//!
//! In the kernel each CPU has a ring that a reader opened. Here there is one for all, of as many bytes as a
//! reader of 64 pages would have; what it has no room for is counted.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Bytes that wait at most.
const ROOM: usize = 64 * 4096;
/// What a record takes beside its bytes, in the kernel's ring: header, size, padding.
const HEADER: usize = 12;

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Events(Mutex<Waiting>);

impl Events {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record; false when there is no room.
    pub fn add(&self, record: Vec<u8>) -> bool {
        let mut waiting = self.waiting();
        let bytes = waiting.bytes + record.len() + HEADER;
        if bytes > ROOM {
            waiting.lost += 1;
            return false;
        }
        waiting.bytes = bytes;
        waiting.records.push_back(record);
        true
    }

    /// Gives all records to `each`, oldest first: how many there were.
    pub fn consume(&self, mut each: impl FnMut(&[u8])) -> usize {
        let records = {
            let mut waiting = self.waiting();
            waiting.bytes = 0;
            std::mem::take(&mut waiting.records)
        };
        records.iter().for_each(|record| each(record));
        records.len()
    }

    /// Records that there was no room for.
    pub fn lost(&self) -> u64 {
        self.waiting().lost
    }
}
