//! A clock of the kernel's for one thread (perf_event_open(2)): so often as it has run for a while, where it
//! is in user mode and what lies on top of its stack are noted in memory that we read later. The thread is
//! neither stopped nor told.
//!
//! It is a software event: it works in virtual machines, and whoever may trace the process may have it,
//! unless `kernel.perf_event_paranoid` is above 2.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of a thread's time between two samples: not a multiple of what programs are clocked by.
pub const PERIOD: u64 = 1_003_009;
/// Words of the stack that are noted.
pub const WORDS: usize = 2;

/// A sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The instruction that is next.
    pub at: u64,
    /// What lies on top of the stack.
    pub stack: [u64; WORDS],
}

/// `struct perf_event_attr`, as far as Linux 4.1 knows it.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
    config2: u64,
    branches: u64,
    registers: u64,
    stack: u32,
    clock: u32,
}

const SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;
const SAMPLE_IP: u64 = 1 << 0;
const SAMPLE_STACK: u64 = 1 << 13;
const WITHOUT_KERNEL: u64 = 1 << 5;
const WITHOUT_HYPERVISOR: u64 = 1 << 6;
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// Of a record: what it is.
const IS_SAMPLE: u32 = 9;
const HEADER: usize = 8;
/// Of a sample: its header, the instruction, the bytes of the stack with their number before and behind.
const BYTES: usize = HEADER + 8 + 8 + 8 * WORDS + 8;
const PAGE: usize = 4096;
/// Where the first page has what was written, what was read, and where the records begin and how many bytes
/// of them there are.
const HEAD: usize = 1024;
const TAIL: usize = 1032;
const DATA: usize = 1040;
const SIZE: usize = 1048;

/// A thread that is watched, until this is dropped.
#[derive(Debug)]
pub struct Event {
    file: File,
    memory: *mut u8,
    bytes: usize,
}

impl Event {
    /// Of a thread, with room for so many samples.
    ///
    /// # Errors
    /// When it is gone, or we may not.
    pub fn of(thread: libc::pid_t, samples: usize) -> io::Result<Self> {
        let attributes = Attributes {
            kind: SOFTWARE,
            size: u32::try_from(size_of::<Attributes>()).unwrap_or_default(),
            config: CPU_CLOCK,
            period: PERIOD,
            sample: SAMPLE_IP | SAMPLE_STACK,
            flags: WITHOUT_KERNEL | WITHOUT_HYPERVISOR,
            stack: u32::try_from(8 * WORDS).unwrap_or_default(),
            ..Attributes::default()
        };
        // SAFETY: the attributes are live, and as long as they say.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, thread, -1_i32, -1_i32, CLOSE_ON_EXEC)
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor was just made, and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        let bytes = PAGE + (samples * BYTES).next_power_of_two().max(PAGE);
        // SAFETY: a mapping of its own, at an address of the kernel's choice.
        let memory = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file, memory: memory.cast(), bytes })
    }

    /// A word of the first page.
    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as `self` lives, and the offset is that of an aligned word in
        // it, which the kernel reads and writes as a whole.
        unsafe { &*self.memory.add(offset).cast() }
    }

    /// Nanoseconds that the thread has run since, in the kernel too.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ran(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        (&self.file).read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// The samples since they were last asked for. What there was no room for is left out.
    pub fn samples(&self) -> Vec<Sample> {
        // Whatever stands before it was written before it.
        let head = self.word(HEAD).load(Ordering::Acquire);
        let tail = self.word(TAIL).load(Ordering::Relaxed);
        let number = |offset| usize::try_from(self.word(offset).load(Ordering::Relaxed)).unwrap_or_default();
        let (data, size) = (number(DATA), number(SIZE));
        if size == 0 || data.saturating_add(size) > self.bytes {
            return Vec::new();
        }
        let length = usize::try_from(head.wrapping_sub(tail)).unwrap_or_default().min(size);
        let start = usize::try_from(tail).unwrap_or_default() % size;
        let byte = |at: usize| {
            // SAFETY: within the mapping, whose end was looked at; the kernel writes there behind `head`
            // only.
            unsafe { self.memory.add(data + (start + at) % size).read_volatile() }
        };
        let records: Vec<u8> = (0..length).map(byte).collect();
        self.word(TAIL).store(head, Ordering::Release);
        read(&records)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.memory.cast(), self.bytes) };
    }
}

/// Takes records apart; what is no sample, or one without a stack, is passed over.
fn read(mut records: &[u8]) -> Vec<Sample> {
    let mut samples = Vec::new();
    while let Some((kind, rest)) = records.split_first_chunk::<4>() {
        let size = rest.get(2..4).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let Some(record) = records.get(HEADER..usize::from(size)).filter(|_| usize::from(size) >= HEADER) else {
            break;
        };
        if u32::from_ne_bytes(*kind) == IS_SAMPLE {
            samples.extend(sample(record));
        }
        records = records.get(usize::from(size)..).unwrap_or_default();
    }
    samples
}

fn sample(record: &[u8]) -> Option<Sample> {
    let word = |index: usize| Some(u64::from_ne_bytes(record.get(8 * index..8 * index + 8)?.try_into().ok()?));
    // How many bytes of the stack could be read stands behind them.
    let is_whole = word(1)? == 8 * WORDS as u64 && word(2 + WORDS)? == 8 * WORDS as u64;
    is_whole.then_some(Sample { at: word(0)?, stack: [word(2)?, word(3)?] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, words: &[u64]) -> Vec<u8> {
        let size = u16::try_from(HEADER + 8 * words.len()).unwrap();
        let mut bytes = [&kind.to_ne_bytes()[..], &[0, 0], &size.to_ne_bytes()].concat();
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn samples_are_read_and_others_passed_over() {
        let whole = record(IS_SAMPLE, &[0x1000, 16, 1, 2, 16]);
        let cut = record(IS_SAMPLE, &[0x1000, 16, 1, 2, 8]);
        let without = record(IS_SAMPLE, &[0x1000, 0]);
        let lost = record(2, &[7, 9]);
        let all = [&whole[..], &cut, &lost, &without, &whole].concat();
        let one = Sample { at: 0x1000, stack: [1, 2] };
        assert_eq!(read(&all), [one, one]);
        for length in 0..all.len() {
            assert!(read(&all[..length]).len() <= 2);
        }
        // A record that says it has no length ends it.
        assert_eq!(read(&[0; 64]), []);
    }
}
