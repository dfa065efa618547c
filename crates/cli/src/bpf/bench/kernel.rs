//! The same chain in the running kernel: socket-buffer programs, run by `BPF_PROG_TEST_RUN`.
//!
//! The kernel repeats a run as often as it is asked to and says how long one took on average, in whole
//! nanoseconds. Its constant tail calls are direct jumps as ours are; computed ones go through its retpoline
//! where it has any.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use relpoline_bpf::insn::Insn;

use super::CHAIN;
use super::contender::{Contender, Round};
use super::updates::{Updates, microseconds, under_load};
use crate::workbench::sample::Sample;

/// Commands of bpf(2).
mod command {
    pub const MAP_CREATE: libc::c_long = 0;
    pub const MAP_UPDATE: libc::c_long = 2;
    pub const MAP_DELETE: libc::c_long = 3;
    pub const PROG_LOAD: libc::c_long = 5;
    pub const TEST_RUN: libc::c_long = 10;
}

/// `BPF_MAP_TYPE_PROG_ARRAY`.
const PROG_ARRAY: u32 = 3;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// Bytes of the packet, which programs see as its length.
const PACKET: usize = 64;
/// Runs in one request.
const REPEAT: u32 = 100_000;

/// Arguments of bpf(2): 8-byte words, filled as `union bpf_attr` (uapi/linux/bpf.h) has it.
#[derive(Default)]
struct Attr([u64; 20]);

impl Attr {
    fn u32(mut self, offset: usize, value: u32) -> Attr {
        let shift = 8 * (offset % 8);
        self.0[offset / 8] |= u64::from(value) << shift;
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Attr {
        self.0[offset / 8] = value;
        self
    }

    fn get(&self, offset: usize) -> u32 {
        (self.0[offset / 8] >> (8 * (offset % 8))) as u32
    }

    /// # Safety
    /// Addresses in it must be of memory that the command may read or write.
    unsafe fn call(&mut self, command: libc::c_long) -> std::io::Result<i32> {
        // SAFETY: as the caller says; the kernel reads and writes the words that it is given.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), std::mem::size_of_val(&self.0)) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result as i32) }
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A map with values of 8 bytes.
pub(super) fn make_map(kind: u32, key_size: u32, entries: u32, flags: u32) -> Result<OwnedFd> {
    let mut attr = Attr::default().u32(0, kind).u32(4, key_size).u32(8, 8).u32(12, entries).u32(16, flags);
    // SAFETY: no addresses.
    unsafe { attr.call(command::MAP_CREATE) }.map(owned).context("bpf(2) makes no map (root only)")
}

/// Sets the value of `key`, on all CPUs.
pub(super) fn set(map: &OwnedFd, key: &[u8]) -> Result<()> {
    /// The kernel reads a value for each CPU that there may ever be.
    const CPUS: usize = 8192;
    let values = vec![1u64; CPUS];
    let mut attr = Attr::default().u32(0, number(map)).u64(8, key.as_ptr() as u64).u64(16, values.as_ptr() as u64);
    // SAFETY: key and values outlive the call.
    unsafe { attr.call(command::MAP_UPDATE) }.context("setting a value")?;
    Ok(())
}

fn program_array() -> Result<OwnedFd> {
    let mut attr = Attr::default().u32(0, PROG_ARRAY).u32(4, 4).u32(8, 4).u32(12, CHAIN + 1);
    // SAFETY: no addresses.
    unsafe { attr.call(command::MAP_CREATE) }.map(owned).context("bpf(2) makes no program array (root only)")
}

pub(super) fn load(insns: &[Insn]) -> Result<OwnedFd> {
    let code: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let licence = c"GPL";
    let mut attr = Attr::default()
        .u32(0, SCHED_CLS)
        .u32(4, insns.len() as u32)
        .u64(8, code.as_ptr() as u64)
        .u64(16, licence.as_ptr() as u64);
    // SAFETY: code and licence outlive the call.
    unsafe { attr.call(command::PROG_LOAD) }.map(owned).context("the kernel refuses the program")
}

/// A program that tail-calls slot `next`, a constant or reckoned from the packet's length.
fn hop(array: &OwnedFd, next: u32, constant: bool) -> Result<OwnedFd> {
    let insn = |opcode, dst, src, offset, imm| Insn { opcode, dst, src, offset, imm };
    let mut insns = vec![insn(0x18, 2, 1, 0, array.as_raw_fd()), insn(0, 0, 0, 0, 0)];
    if constant {
        insns.push(insn(0xb7, 3, 0, 0, next as i32));
    } else {
        // r3 = len - PACKET + next
        insns.extend([insn(0x61, 3, 1, 0, 0), insn(0x07, 3, 0, 0, next as i32 - PACKET as i32)]);
    }
    insns.extend([insn(0x85, 0, 0, 0, 12), insn(0xb7, 0, 0, 0, next as i32), insn(0x95, 0, 0, 0, 0)]);
    load(&insns)
}

fn put(array: &OwnedFd, slot: u32, program: &OwnedFd) -> Result<()> {
    let value = number(program);
    let mut attr =
        Attr::default().u32(0, number(array)).u64(8, &raw const slot as u64).u64(16, &raw const value as u64);
    // SAFETY: key and value outlive the call.
    unsafe { attr.call(command::MAP_UPDATE) }.context("updating the program array")?;
    Ok(())
}

fn remove(array: &OwnedFd, slot: u32) -> Result<()> {
    let mut attr = Attr::default().u32(0, number(array)).u64(8, &raw const slot as u64);
    // SAFETY: the key outlives the call.
    unsafe { attr.call(command::MAP_DELETE) }.context("emptying a slot")?;
    Ok(())
}

/// Average nanoseconds of a run, and what it returned.
pub(super) fn test_run(program: &OwnedFd, repeat: u32) -> Result<(u32, u32)> {
    let packet = [0u8; PACKET];
    let mut attr =
        Attr::default().u32(0, number(program)).u32(8, PACKET as u32).u64(16, packet.as_ptr() as u64).u32(32, repeat);
    // SAFETY: the packet outlives the call, and no output was asked for.
    unsafe { attr.call(command::TEST_RUN) }.context("the kernel does not run it")?;
    Ok((attr.get(36), attr.get(4)))
}

/// A chain in the kernel.
pub struct Chain {
    constant: bool,
    array: OwnedFd,
    entry: OwnedFd,
    /// The same program with nowhere to go.
    alone: OwnedFd,
    programs: Vec<OwnedFd>,
    _empty: OwnedFd,
}

/// A row's name.
pub fn name(constant: bool) -> String {
    format!("kernel, {} index", if constant { "constant" } else { "computed" })
}

impl Chain {
    /// A whole chain.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub fn new(constant: bool) -> Result<Chain> {
        let (array, empty) = (program_array()?, program_array()?);
        let (entry, alone) = (hop(&array, 0, constant)?, hop(&empty, 0, constant)?);
        let programs = (1..=CHAIN).map(|next| hop(&array, next, constant)).collect::<Result<Vec<_>>>()?;
        for (slot, program) in programs.iter().enumerate() {
            put(&array, slot as u32, program)?;
        }
        let chain = Chain { constant, array, entry, alone, programs, _empty: empty };
        let (_, result) = test_run(&chain.entry, 1)?;
        ensure!(result == CHAIN, "the chain ended at {result}");
        Ok(chain)
    }
}

impl Contender for Chain {
    fn name(&self) -> String {
        name(self.constant)
    }

    fn round(&mut self) -> Result<Round> {
        let (with_hops, _) = test_run(&self.entry, REPEAT)?;
        let (without, _) = test_run(&self.alone, REPEAT)?;
        Ok(Round { with_hops: with_hops.into(), without: without.into(), sum: None })
    }
}

/// What updates cost there, fewer of them than here: removing takes tens of milliseconds.
///
/// # Errors
/// When the kernel does not let us.
pub fn updates(threads: usize, rounds: u32) -> Result<Updates> {
    const AT_A_TIME: u32 = 1000;
    let chain = Chain::new(true)?;
    let other = hop(&chain.array, 17, true)?;
    let Some(one) = chain.programs.get(16) else { bail!("a chain without programs") };
    let run = || test_run(&chain.entry, AT_A_TIME).map_or(0, |_| AT_A_TIME.into());
    let work = || {
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds {
            let next = if round % 2 == 0 { &other } else { one };
            times[0].push(microseconds(|| put(&chain.array, 16, next))?);
            times[1].push(microseconds(|| remove(&chain.array, 16))?);
            times[2].push(microseconds(|| put(&chain.array, 16, one))?);
        }
        Ok(times)
    };
    let (times, runs_per_second) = under_load(threads, run, work)?;
    let [replace_us, remove_us, insert_us] = times.map(|times| Sample::of(&times));
    Ok(Updates { name: "kernel".into(), threads, runs_per_second, replace_us, remove_us, insert_us, swap_us: None })
}
