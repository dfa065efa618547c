//! Child processes that never outlive the driver.
//!
//! Every child leads a process group of its own, noted in a table that a signal handler and the panic hook
//! can read without locks. A normal end kills groups through `Drop` of their owners; an interrupt or a panic
//! kills whatever the table holds. Should the driver be killed outright, the kernel sends the child its stop
//! signal.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};

static GROUPS: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

/// A process group, killed when dropped.
pub struct Group {
    id: i32,
}

impl Group {
    /// Sends a signal to all processes of the group; a group that is gone is no error.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain numbers; the group is one we made and have not forgotten yet.
        unsafe { libc::kill(-self.id, signal) };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        for slot in &GROUPS {
            // Only the slot that holds this group is emptied, whichever it is.
            let _ = slot.compare_exchange(self.id, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// Starts a command as the leader of its own group, to get `stop` if the driver dies.
pub fn spawn(command: &mut Command, stop: i32) -> Result<(Child, Group)> {
    command.process_group(0);
    let die_with_parent = move || {
        // SAFETY: this prctl takes a number and changes the calling process alone.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, stop) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe. It runs after
    // a change of user, which would reset what it sets.
    unsafe { command.pre_exec(die_with_parent) };
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let id = i32::try_from(child.id()).context("a pid fits an i32")?;
    let free = GROUPS.iter().find(|slot| slot.compare_exchange(0, id, Ordering::SeqCst, Ordering::SeqCst).is_ok());
    let group = Group { id };
    free.context("too many children at once")?;
    Ok((child, group))
}

/// Makes interrupts and panics take all noted groups along.
pub fn stop_all_on_exit() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(i32) = stop_all_and_exit;
        // SAFETY: the handler does nothing but load atomics, kill and _exit, all async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        kill_groups(libc::SIGTERM);
    }));
}

extern "C" fn stop_all_and_exit(signal: i32) {
    // First what lets a server take its own children along, then what nobody survives.
    kill_groups(libc::SIGTERM);
    kill_groups(libc::SIGINT);
    // SAFETY: poll without descriptors only waits, and _exit ends the process without running anything.
    unsafe {
        libc::poll(std::ptr::null_mut(), 0, 300);
        kill_groups(libc::SIGKILL);
        libc::_exit(128 + signal);
    }
}

fn kill_groups(signal: i32) {
    for slot in &GROUPS {
        let id = slot.load(Ordering::SeqCst);
        if id > 1 {
            // SAFETY: kill takes plain numbers; the table holds only groups that we made.
            unsafe { libc::kill(-id, signal) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn dropping_the_group_kills_the_child() {
        let (mut child, group) = spawn(Command::new("sleep").arg("100"), libc::SIGKILL).expect("sleep starts");
        drop(group);
        assert_eq!(child.wait().expect("it ends").signal(), Some(libc::SIGKILL));
    }
}
