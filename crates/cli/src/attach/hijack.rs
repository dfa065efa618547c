//! Letting a thread of another process make system calls, without ever leaving it in a state that only we can
//! mend.
//!
//! The thread is stopped, some code is put where no code of the program lies, and its registers are set, all
//! at once, so that it goes on there. That code makes the system calls and then *puts the thread's registers
//! back by itself* and jumps to where the thread was. We do not let it come to that: after the last system
//! call we set the registers ourselves, so that the kernel restarts a system call that was interrupted as if
//! nothing had happened. But should we be killed at any moment, the kernel lets go of the thread, and it ends
//! the code on its own:
//!
//! ```text
//! block all signals                     for a clone: the new thread shall get none
//! the system calls
//! unblock
//! mov $…,%rax; …                        the nine registers that system calls use
//! jmp *0(%rip)                          to where the thread was
//! ```
//! The code touches no stack and no flags. A system call that was interrupted is made again by it, as the
//! kernel does.
//!
//! Its place is the padding between the end of an object's code and the end of that page, which belongs to
//! nobody.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::memory::Memory;
use super::tracee::{Event, SystemCall, Thread};

/// Bytes that the code may take.
pub const ROOM: usize = 640;
/// Ends the room, to recognise code that a killed predecessor has left.
pub const MARK: [u8; 8] = *b"RLPSTUB!";
/// Selector of 64-bit code.
const CODE_SEGMENT: u64 = 0x33;
/// The flag by which a thread traps after each instruction.
const TRAP: u64 = 1 << 8;
/// All system calls together do not take longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A system call to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    number: i64,
    arguments: [u64; 6],
    /// A new thread begins by returning to what its stack says.
    is_clone: bool,
}

impl Call {
    /// Number and arguments.
    pub fn new(number: i64, arguments: [u64; 6]) -> Self {
        Self { number, arguments, is_clone: false }
    }

    /// A new thread with signals blocked, descriptors of its own, and `stack`, whose top is the address where
    /// it begins. Its number is at `tid` for as long as it lives, then 0.
    pub fn clone(stack: u64, tid: u64) -> Self {
        let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;
        let flags = flags | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID;
        let arguments = [u64::from(flags.unsigned_abs()), stack, tid, tid, 0, 0];
        Self { number: libc::SYS_clone, arguments, is_clone: true }
    }
}

/// `mov $value,%register`, by number, without touching flags.
fn load(code: &mut Vec<u8>, register: u8, value: u64) {
    let extended = register >> 3;
    if let Ok(short) = u32::try_from(value) {
        if extended == 1 {
            code.push(0x41);
        }
        code.push(0xb8 | register & 7);
        code.extend(short.to_le_bytes());
    } else {
        code.extend([0x48 | extended, 0xb8 | register & 7]);
        code.extend(value.to_le_bytes());
    }
}

/// Numbers of the registers in which arguments go: rdi, rsi, rdx, r10, r8, r9.
const ARGUMENTS: [u8; 6] = [7, 6, 2, 10, 8, 9];

/// The code for `calls`, with the offsets behind their system call instructions.
fn assemble(calls: &[Call], registers: &libc::user_regs_struct) -> (Vec<u8>, Vec<u64>) {
    let mut code = Vec::new();
    let mut ends = Vec::new();
    for call in calls {
        for (register, value) in ARGUMENTS.into_iter().zip(call.arguments) {
            load(&mut code, register, value);
        }
        load(&mut code, 0, call.number.cast_unsigned());
        code.extend([0x0f, 0x05]);
        ends.push(code.len() as u64);
        if call.is_clone {
            // mov %rax,%rcx; jrcxz 1f; jmp 2f; 1: ret; 2:
            code.extend([0x48, 0x89, 0xc1, 0xe3, 2, 0xeb, 1, 0xc3]);
        }
    }
    // The broken variant that the tests must catch: nobody but us can mend the thread.
    if super::is_broken("left-to-us") {
        code.push(0xcc);
        return (code, ends);
    }
    let r = resumed(registers);
    for (register, value) in
        [(0, r.rax), (1, r.rcx), (2, r.rdx), (6, r.rsi), (7, r.rdi), (8, r.r8), (9, r.r9), (10, r.r10), (11, r.r11)]
    {
        load(&mut code, register, value);
    }
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend(r.rip.to_le_bytes());
    (code, ends)
}

/// The registers with which a thread goes on that was interrupted in a system call: what the kernel makes of
/// them when there is no signal to deliver.
fn resumed(registers: &libc::user_regs_struct) -> libc::user_regs_struct {
    const RESTART: [i64; 3] = [-512, -513, -514];
    const RESTART_BLOCK: i64 = -516;
    let mut registers = *registers;
    if registers.orig_rax.cast_signed() < 0 {
        return registers;
    }
    let again = match registers.rax.cast_signed() {
        code if RESTART.contains(&code) => registers.orig_rax,
        RESTART_BLOCK => libc::SYS_restart_syscall.cast_unsigned(),
        _ => return registers,
    };
    registers.rax = again;
    registers.rip = registers.rip.wrapping_sub(2);
    registers
}

/// Whether `thread`, which stands still, executes at `at..at + ROOM`.
pub fn is_in_room(thread: &Thread, at: u64) -> anyhow::Result<bool> {
    Ok(thread.registers()?.rip.wrapping_sub(at) < ROOM as u64)
}

/// Lets `thread`, which stands still, make `calls`, with the code at `room`. It stands still afterwards,
/// where it stood.
///
/// The answers, errors negative.
pub fn run(thread: &mut Thread, memory: &Memory, room: u64, calls: &[Call]) -> anyhow::Result<Vec<i64>> {
    let before = thread.registers()?;
    ensure!(before.cs == CODE_SEGMENT, "thread {} executes 32-bit code just now; try again", thread.tid);
    // The code, which touches no flags, would be stepped through too, and a thread that it makes would begin
    // with that.
    ensure!(before.eflags & TRAP == 0, "thread {} steps through its code just now; try again", thread.tid);
    let mask = thread.blocked_signals()?;
    let blocks = calls.iter().any(|call| call.is_clone);
    let all = if blocks { with_signals_blocked(calls, room) } else { calls.to_vec() };
    let (code, ends) = assemble(&all, &before);
    place(thread, memory, room, &code, mask)?;
    let ends: Vec<u64> = ends.into_iter().map(|end| room + end).collect();
    let mut there = before;
    there.rip = room;
    there.orig_rax = u64::MAX;
    thread.set_registers(&there)?;
    if blocks {
        // What the code does first and last is faster done by us: each system call is two stops.
        thread.block_signals(u64::MAX)?;
        there.rip = ends[0];
        thread.set_registers(&there)?;
    }
    let wanted = if blocks { &ends[1..ends.len() - 1] } else { &ends[..] };
    match follow(thread, wanted) {
        Ok(answers) => {
            if blocks {
                thread.block_signals(mask)?;
            }
            put_back(thread, &before)?;
            Ok(answers)
        }
        Err(error) => {
            // It leaves the code on its own.
            thread.interrupt()?;
            thread.settle(Instant::now() + PATIENCE)?;
            Err(error)
        }
    }
}

/// Lets the thread stand as it stood before, with a system call that was interrupted about to be restarted.
/// That is for the kernel to do, on its way out of a stop by interruption; and since that is pending before
/// the registers are back, it does so even if we are killed right then.
fn put_back(thread: &mut Thread, before: &libc::user_regs_struct) -> anyhow::Result<()> {
    if resumed(before).rip == before.rip {
        return Ok(thread.set_registers(before)?);
    }
    thread.interrupt()?;
    thread.set_registers(before)?;
    thread.resume()?;
    ensure!(thread.settle(Instant::now() + PATIENCE)?, "the process has ended");
    Ok(())
}

/// Offsets, in the room, of two signal sets: all, and those that the thread blocks.
const ALL_SIGNALS: u64 = ROOM as u64 - 24;
const OWN_SIGNALS: u64 = ROOM as u64 - 16;

fn with_signals_blocked(calls: &[Call], room: u64) -> Vec<Call> {
    let set_mask = |set: u64| {
        let how = u64::from(libc::SIG_SETMASK.unsigned_abs());
        Call::new(libc::SYS_rt_sigprocmask, [how, room + set, 0, 8, 0, 0])
    };
    let mut all = vec![set_mask(ALL_SIGNALS)];
    all.extend(calls);
    all.push(set_mask(OWN_SIGNALS));
    all
}

/// Puts the code into its room, and sees to it that the thread finds it there: it may have become another
/// program.
fn place(thread: &Thread, memory: &Memory, room: u64, code: &[u8], mask: u64) -> anyhow::Result<()> {
    ensure!(code.len() as u64 <= ALL_SIGNALS, "the code for the system calls is too long");
    let mut whole = [0xcc; ROOM];
    whole[..code.len()].copy_from_slice(code);
    whole[ALL_SIGNALS as usize..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    whole[OWN_SIGNALS as usize..][..8].copy_from_slice(&mask.to_le_bytes());
    whole[ROOM - 8..].copy_from_slice(&MARK);
    memory.write(room, &whole).context("its text cannot be written")?;
    for (n, word) in whole.chunks_exact(8).enumerate() {
        let seen = thread.peek(room + n as u64 * 8)?;
        ensure!(seen.to_le_bytes() == word, "the process executes another program now; try again");
    }
    Ok(())
}

/// Follows the thread through system calls that end at `ends`, up to the last one, and collects their
/// answers.
fn follow(thread: &mut Thread, ends: &[u64]) -> anyhow::Result<Vec<i64>> {
    let deadline = Instant::now() + PATIENCE;
    let mut answers = vec![0; ends.len()];
    let mut signal = 0;
    loop {
        // Also when something new happens to it all the time.
        ensure!(Instant::now() < deadline, "thread {} does not come to its end", thread.tid);
        thread.resume_to_system_call(std::mem::take(&mut signal))?;
        match thread.wait(deadline)? {
            Event::SystemCall => {
                let SystemCall::Left { at, answer } = thread.system_call()? else { continue };
                let Some(n) = ends.iter().position(|&end| end == at) else { continue };
                answers[n] = answer;
                if n + 1 == ends.len() {
                    return Ok(answers);
                }
            }
            Event::Signal(arrived) => signal = arrived,
            Event::Interrupted | Event::GroupStop(_) => {}
            Event::Ended => bail!("the process has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(orig_rax: i64, rax: i64) -> libc::user_regs_struct {
        // SAFETY: plain integers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        registers.orig_rax = orig_rax.cast_unsigned();
        registers.rax = rax.cast_unsigned();
        registers.rip = 0x1002;
        registers
    }

    #[test]
    fn an_interrupted_system_call_is_made_again_and_nothing_else() {
        let after = |orig_rax, rax| {
            let r = resumed(&registers(orig_rax, rax));
            (r.rax.cast_signed(), r.rip)
        };
        assert_eq!(after(libc::SYS_read, -512), (libc::SYS_read, 0x1000));
        assert_eq!(after(libc::SYS_poll, -516), (libc::SYS_restart_syscall, 0x1000));
        assert_eq!(after(libc::SYS_read, -4), (-4, 0x1002));
        assert_eq!(after(-1, -512), (-512, 0x1002));
    }

    #[test]
    fn four_calls_have_room() {
        let call = Call::new(i64::MAX, [u64::MAX; 6]);
        let mut registers = registers(-1, -1);
        (registers.rcx, registers.rdx, registers.rsi, registers.rdi) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        let typical = Call::new(libc::SYS_mprotect, [u64::MAX, 4096, 3, 0, 0, 0]);
        let calls = with_signals_blocked(&[call, typical, typical, Call::clone(u64::MAX, u64::MAX)], u64::MAX - 4096);
        assert!(assemble(&calls, &registers).0.len() as u64 <= ALL_SIGNALS);
    }
}
