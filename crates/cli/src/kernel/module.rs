//! Putting the module into the kernel and taking it out.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::device::{self, Control};
use crate::files::Directory;

/// `relpoline kernel load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The module's file [default: the first relpoline.ko for the running kernel]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Load it, but promote nothing until `relpoline kernel enable`.
    #[arg(long)]
    disabled: bool,
}

/// Loads the module.
///
/// # Errors
/// Why the module is not loaded: what the kernel said, or the module's own reason.
pub fn load(arguments: &LoadArgs) -> Result<()> {
    if device::is_loaded() {
        bail!("the module relpoline is loaded already; see: relpoline kernel status");
    }
    let release = release()?;
    let path = match &arguments.module {
        Some(path) => path.clone(),
        None => find(&release)?,
    };
    let file = File::open(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let parameters = if arguments.disabled { c"enable=0" } else { c"" };
    let log = Log::from_now();
    // SAFETY: a descriptor of ours and a string that outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags(&path)) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        bail!("{} was not loaded: {}", path.display(), why(&error, &log.reasons(), &path, &release));
    }
    if let Ok(stats) = Control::open().and_then(|control| control.stats()) {
        let (kernel, modules) = (stats.get("sites_kernel"), stats.get("sites_modules"));
        println!("loaded: {kernel} sites in the kernel, {modules} in its modules");
    }
    Ok(())
}

/// What finit_module has to know of a file.
fn flags(path: &Path) -> libc::c_int {
    const COMPRESSED: libc::c_int = 4;
    if path.extension().is_some_and(|extension| extension == "ko") { 0 } else { COMPRESSED }
}

/// Unloads the module. It holds itself while a branch leads into it, so promotion is switched off first.
///
/// # Errors
/// The module is not loaded, in use, or we may not; a branch cannot be put back yet.
pub fn unload() -> Result<()> {
    if !device::is_loaded() {
        bail!("the module relpoline is not loaded");
    }
    let name = CString::new("relpoline").expect("no zero in it");
    switch_off()?;
    // SAFETY: a string that outlives the call.
    if unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } != 0 {
        let error = std::io::Error::last_os_error();
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) => "; only root may unload modules",
            Some(libc::EAGAIN | libc::EBUSY) => {
                "; somebody has one of its devices in /dev/relpoline open; promotion is off (relpoline kernel enable)"
            }
            _ => "",
        };
        bail!("the module was not unloaded: {error}{hint}");
    }
    Ok(())
}

/// Lets every branch lead to its retpoline, or says which ones wait, and for whom.
fn switch_off() -> Result<()> {
    let control = Control::open()?;
    let Err(error) = control.tell("disable") else { return Ok(()) };
    let waiting = control.waiting().unwrap_or_default();
    if waiting.is_empty() {
        return Err(error);
    }
    let named: Vec<&str> = waiting.iter().take(3).map(String::as_str).collect();
    bail!(
        "the module was not unloaded: somebody else has {} of its branches ({}{}); promotion is off, and they are put back \
         when the probe (kprobe, perf probe, bpftrace) or module that has them goes; then unload again",
        waiting.len(),
        named.join(", "),
        if waiting.len() > named.len() { ", …" } else { "" }
    )
}

pub(super) fn release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc is not mounted")?;
    Ok(release.trim().to_owned())
}

/// The module's file for the running kernel, in the places where it is put. The last of them lies in the
/// directory that the command was started in, which may be anybody's: a module from there is taken only if
/// nobody else can have made it.
pub(super) fn find(release: &str) -> Result<PathBuf> {
    find_in(release, Path::new(""))
}

fn find_in(release: &str, current: &Path) -> Result<PathBuf> {
    let installed =
        ["updates", "extra", "updates/dkms"].map(|dir| format!("/lib/modules/{release}/{dir}/relpoline.ko"));
    let built = current.join(format!("target/kernel/{release}/relpoline.ko"));
    // DKMS packs modules as the kernel's own are packed, which finit_module can be told.
    let packed = |path: &String| [path.clone(), format!("{path}.xz"), format!("{path}.zst")];
    let installed = installed.iter().flat_map(packed).map(PathBuf::from).find(|path| path.exists());
    if installed.is_none() && built.exists() {
        is_nobody_elses(&built).with_context(|| {
            format!("{} may be somebody else's work; if it is yours, name it by --module", built.display())
        })?;
        return Ok(built);
    }
    installed.with_context(|| {
        format!(
            "there is no relpoline.ko for this kernel ({release}); install relpoline-dkms, build it by: cargo \
             xtask kernel-build --release {release}, or name its file by --module"
        )
    })
}

/// That nobody but this user and root can have made a file, or can exchange it.
fn is_nobody_elses(path: &Path) -> Result<()> {
    let path = std::path::absolute(path)?;
    let (directory, name) = path.parent().zip(path.file_name()).context("it names no file")?;
    Directory::own(directory, false)?.own_file(name)?;
    Ok(())
}

/// One sentence on why the kernel did not take the module.
fn why(error: &std::io::Error, reasons: &[String], path: &Path, release: &str) -> String {
    if let Some(reason) = reasons.last() {
        return reason.clone();
    }
    match error.raw_os_error() {
        Some(libc::EPERM) => match lockdown() {
            Some(state) => format!("the kernel is locked down ({state}) and takes only signed modules"),
            None => "only root may load modules".to_owned(),
        },
        Some(libc::ENOEXEC) => match vermagic(path) {
            Some(built) if built != release => {
                format!("it was built for Linux {built}, and this is {release}; build it for this kernel")
            }
            _ => "it is not a module for this kernel".to_owned(),
        },
        Some(libc::ENOKEY | libc::EKEYREJECTED) => {
            "the kernel takes only signed modules; sign it, or switch secure boot off".to_owned()
        }
        Some(libc::ENOMEM) => "the kernel has not enough memory for the module itself (4 MiB)".to_owned(),
        _ => error.to_string(),
    }
}

/// The kernel's lockdown state, unless that is "none".
pub(super) fn lockdown() -> Option<String> {
    let states = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let state = states.split('[').nth(1)?.split(']').next()?;
    (state != "none").then(|| state.to_owned())
}

/// The release that the module in `path` was built for.
fn vermagic(path: &Path) -> Option<String> {
    const KEY: &[u8] = b"vermagic=";
    let bytes = fs::read(path).ok()?;
    let at = bytes.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let value = bytes.get(at..)?.split(|&byte| byte == b' ' || byte == 0).next()?;
    String::from_utf8(value.to_vec()).ok()
}

/// The kernel's log from a certain moment on.
struct Log(Option<File>);

impl Log {
    fn from_now() -> Log {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok();
        Log(file.and_then(|mut file| file.seek(SeekFrom::End(0)).ok().map(|_| file)))
    }

    /// The reasons that the module has given since then.
    fn reasons(self) -> Vec<String> {
        let Some(mut file) = self.0 else { return Vec::new() };
        let mut reasons = Vec::new();
        let mut record = [0; 8192];
        // Each read gives one record, `level,number,time,flags;text`, until there is none.
        while let Ok(len) = file.read(&mut record) {
            let text = String::from_utf8_lossy(record.get(..len).unwrap_or_default()).into_owned();
            if let Some((_, reason)) = text.split_once(";relpoline: refused: ") {
                reasons.extend(reason.lines().next().map(str::to_owned));
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, lchown};

    /// Root may be in a directory of another user's, or in /tmp, where anybody can make `target`.
    #[test]
    fn a_module_of_somebody_elses_is_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let release = "0.0.0-no-such-kernel";
        let folder = base.path().join("target/kernel").join(release);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("relpoline.ko");
        assert!(find_in(release, base.path()).unwrap_err().to_string().contains("there is no relpoline.ko"));
        fs::write(&file, "module").unwrap();
        assert_eq!(find_in(release, base.path()).unwrap(), file);
        let is_refused = || find_in(release, base.path()).is_err_and(|error| error.to_string().contains("--module"));
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&file, 0o666);
        assert!(is_refused());
        mode(&file, 0o644);
        mode(&folder, 0o777);
        assert!(is_refused());
        mode(&folder, 0o755);
        if !rustix::process::geteuid().is_root() {
            return println!("skipped in part: only root can give files away");
        }
        for theirs in [&file, &folder, &base.path().join("target")] {
            lchown(theirs, Some(12345), None).unwrap();
            assert!(is_refused(), "{}", theirs.display());
            lchown(theirs, Some(0), None).unwrap();
        }
        assert!(find_in(release, base.path()).is_ok());
    }
}
