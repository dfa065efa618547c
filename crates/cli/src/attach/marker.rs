//! A page of a file in a process' address space: the sign by which perf(1) knows that a jitdump file belongs
//! to it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::ensure;

use super::hijack::Call;
use super::remote::error_of;
use super::session::Session;
use crate::live::process::Process;

/// Lets a process map the first page of `file`, readable and executable, which nobody ever executes.
///
/// # Errors
/// When the process has no engine, may not be traced, or may not open or map the file.
pub fn map(process: &Process, file: &Path) -> anyhow::Result<()> {
    let pid = process.pid.cast_signed();
    let mut session = Session::open_as(pid, Some(process))?;
    let engine = super::engine_in(&session)?;
    let mut path = file.as_os_str().as_bytes().to_vec();
    path.push(0);
    session.memory.write(engine.scratch(), &path)?;
    // A process that waits at a FIFO would be held for ever.
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let at_cwd = i64::from(libc::AT_FDCWD).cast_unsigned();
    let open = Call::new(libc::SYS_openat, [at_cwd, engine.scratch(), u64::from(flags.unsigned_abs()), 0, 0, 0]);
    let opened = one(&mut session, open)?;
    ensure!(
        opened >= 0,
        "process {pid} cannot open {} ({}): name a directory that it can reach with --dir",
        file.display(),
        error_of(opened)
    );
    let descriptor = opened.cast_unsigned();
    let access = u64::from((libc::PROT_READ | libc::PROT_EXEC).unsigned_abs());
    let private = u64::from(libc::MAP_PRIVATE.unsigned_abs());
    let calls = [
        Call::new(libc::SYS_mmap, [0, 4096, access, private, descriptor, 0]),
        Call::new(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]),
    ];
    let answers = session.call("mapping the file", &calls)?;
    session.leave_room()?;
    let mapped = answers.first().copied().unwrap_or(-1);
    ensure!(
        !(-4095..0).contains(&mapped),
        "process {pid} cannot map {} ({}): a file system mounted noexec does not do; name another directory with --dir",
        file.display(),
        error_of(mapped)
    );
    Ok(())
}

fn one(session: &mut Session, call: Call) -> anyhow::Result<i64> {
    let answers = session.call("opening the file", &[call])?;
    session.leave_room()?;
    Ok(answers.first().copied().unwrap_or(-1))
}
