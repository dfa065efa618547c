//! A ring buffer of records from programs to the host, with the kernel's reckoning: a record takes its bytes
//! and a header of 8, rounded up to 8, and the ring is full one byte before its size.
//!
//! Records may cross the ring's end, where the kernel maps its pages a second time. Here the memory is twice
//! as large: a record begins in the first half, and the one that crosses the end lies partly in the second.
//! What is known about records lies elsewhere, out of programs' reach.

use super::values::Values;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// `BPF_RINGBUF_HDR_SZ`.
const HEADER: u64 = 8;
/// `RINGBUF_MAX_RECORD_SZ`.
const MOST: u64 = u32::MAX as u64 / 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reserved,
    Submitted,
    Discarded,
}

#[derive(Debug)]
struct Record {
    /// Where its bytes begin, behind the header.
    offset: u64,
    len: u64,
    state: State,
}

impl Record {
    /// What it takes of the ring.
    fn taken(&self) -> u64 {
        (self.len + HEADER).next_multiple_of(8)
    }
}

#[derive(Debug, Default)]
struct Records {
    queue: VecDeque<Record>,
    /// Bytes that were ever taken out, and reserved.
    consumed: u64,
    produced: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Ring {
    size: u64,
    records: Mutex<Records>,
}

impl Ring {
    /// A ring of `size` bytes, a power of two.
    pub fn new(size: u32) -> Ring {
        Ring { size: size.into(), records: Mutex::default() }
    }

    fn records(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `len` bytes: its offset, or `None` when there is not so much.
    pub fn reserve(&self, len: u64) -> Option<u64> {
        let mut records = self.records();
        let record = Record { offset: records.produced % self.size + HEADER, len, state: State::Reserved };
        if len > MOST || records.produced + record.taken() - records.consumed >= self.size {
            return None;
        }
        records.produced += record.taken();
        let offset = record.offset;
        records.queue.push_back(record);
        Some(offset)
    }

    /// Ends the reservation that begins at `offset`; false when there is none.
    pub fn finish(&self, offset: u64, submit: bool) -> bool {
        let mut records = self.records();
        let found = records.queue.iter_mut().rev().find(|r| r.offset == offset && r.state == State::Reserved);
        found.is_some_and(|record| {
            record.state = if submit { State::Submitted } else { State::Discarded };
            true
        })
    }

    /// `bpf_ringbuf_query`: bytes not taken out yet, size, and both positions; 0 for what else is asked.
    pub fn query(&self, what: u64) -> u64 {
        let records = self.records();
        match what {
            0 => records.produced - records.consumed,
            1 => self.size,
            2 => records.consumed,
            3 => records.produced,
            _ => 0,
        }
    }

    /// Takes out what is submitted, up to the first record that is still reserved.
    pub fn consume(&self, values: &Values, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        loop {
            let bytes = {
                let mut records = self.records();
                if records.queue.front().is_none_or(|record| record.state == State::Reserved) {
                    return count;
                }
                let Some(record) = records.queue.pop_front() else {
                    return count;
                };
                records.consumed += record.taken();
                (record.state == State::Submitted).then(|| values.bytes_at(record.offset as usize, record.len as usize))
            };
            if let Some(bytes) = bytes {
                each(&bytes);
                count += 1;
            }
        }
    }
}
