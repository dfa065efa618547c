// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Load on the kernel: files, a file system, TCP, processes, pipes. Each kind is a thread that goes on until
//! it is told to stop.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::machine;

/// Where the ext4 file system is mounted.
const EXT4: &str = "/mnt";

/// Threads that drive load until this is dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts all kinds.
    pub fn start() -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let kinds: [fn(&AtomicBool); 5] = [files, ext4, tcp, processes, pipes];
        let threads = kinds.map(|kind| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    kind(&stop);
                }
            })
        });
        Load { stop, threads: threads.into() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Puts the ext4 image that came with us behind a loop device and mounts it.
pub fn mount_ext4() -> bool {
    const LOOP_SET_FD: libc::c_ulong = 0x4c00;
    let _ = fs::create_dir_all(EXT4);
    machine::insmod("crc32c_generic");
    if !machine::insmod("loop") || !machine::insmod("ext4") || fs::copy("/ext4.img", "/tmp/ext4.img").is_err() {
        return false;
    }
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let (Ok(device), Ok(image)) = (open("/dev/loop0"), open("/tmp/ext4.img")) else { return false };
    // SAFETY: two descriptors of ours; no memory is involved.
    let bound = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, image.as_raw_fd()) == 0 };
    bound && machine::mount("/dev/loop0", EXT4, "ext4")
}

/// Looks at every file, as find does.
fn files(stop: &AtomicBool) {
    for top in ["/sys/class", "/sys/devices/system", "/proc/self", "/modules", "/bin", "/proc/sys/net", "/tmp"] {
        walk(Path::new(top), stop);
    }
}

fn walk(dir: &Path, stop: &AtomicBool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = entry.metadata();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), stop);
        }
    }
}

/// Creates, writes, reads and removes files on ext4.
fn ext4(_stop: &AtomicBool) {
    let mut block = vec![7; 16 << 10];
    for i in 0..8 {
        let path = format!("{EXT4}/file{i}");
        let Ok(mut file) = File::create(&path) else { continue };
        for _ in 0..8 {
            let _ = file.write_all(&block);
        }
        let _ = file.sync_data();
        if let Ok(mut file) = File::open(&path) {
            while file.read(&mut block).is_ok_and(|len| len > 0) {}
        }
        let _ = fs::rename(&path, format!("{path}.old"));
        let _ = fs::metadata(format!("{path}.old"));
        let _ = fs::remove_file(format!("{path}.old"));
    }
}

/// A connection over loopback and some thousand bytes to and fro.
fn tcp(_stop: &AtomicBool) {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return thread::sleep(Duration::from_millis(10)) };
    let Ok(address) = listener.local_addr() else { return };
    let server = thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut block = [0; 512];
        while let Ok(len @ 1..) = stream.read(&mut block) {
            let _ = stream.write_all(&block[..len]);
        }
    });
    if let Ok(mut stream) = TcpStream::connect(address) {
        let mut block = [1; 512];
        for _ in 0..64 {
            let _ = stream.write_all(&block);
            let _ = stream.read(&mut block);
        }
    }
    let _ = server.join();
}

/// Processes that do nothing.
fn processes(_stop: &AtomicBool) {
    let _ = Command::new("/bin/true").status();
}

/// A byte to and fro between two threads.
fn pipes(_stop: &AtomicBool) {
    let (Ok((mut there_out, mut there_in)), Ok((mut back_out, mut back_in))) = (std::io::pipe(), std::io::pipe())
    else {
        return;
    };
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while there_out.read(&mut byte).is_ok_and(|len| len == 1) {
            let _ = back_in.write_all(&byte);
        }
    });
    for _ in 0..200 {
        let mut byte = [1];
        let _ = there_in.write_all(&byte);
        let _ = back_out.read(&mut byte);
    }
    drop(there_in);
    let _ = echo.join();
}
