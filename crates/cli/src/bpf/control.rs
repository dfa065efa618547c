//! The socket through which a run that is going on is changed.
//!
//! A connection carries one request, lines of text, and one reply. The first line names the array; each
//! further one is `INDEX`, to empty a slot, or `INDEX FILE PROGRAM`, separated by tabs. The server loads the
//! files itself; their maps of the same name as the running object's are those. All slots change at once for
//! every packet. The socket is for its user alone (mode 0600).
//!
//! Its directory is opened once, and the socket made, looked at and removed by it. What a killed run has left
//! is removed: a socket of this user's that nobody listens at, and nothing else.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relpoline_bpf::{MapHandle, Object, Options, ProgArray, Program, Runtime};
use rustix::fs::{AtFlags, FileType, Mode, Stat};

use super::Kernel;
use crate::files::{Directory, open};
use crate::live::Patience;

/// Most bytes of a request.
const LONGEST: u64 = 1 << 20;
/// How long a client may take, and whoever listens to take a request and to answer it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket's file, removed in the end.
#[derive(Debug)]
struct Socket {
    directory: Arc<Directory>,
    name: OsString,
    made: Stat,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody else may have removed it, or put something else in its place.
        let _ = self.directory.remove(&*self.name, &self.made);
    }
}

/// A server at work; it ends with the process, and its socket's file with this value.
#[derive(Debug)]
pub struct Control {
    _socket: Socket,
    newcomers: Arc<Mutex<Newcomers>>,
}

impl Control {
    /// How often programs that came by requests were started: those in use, and those that have gone again.
    pub fn starts(&self) -> Vec<(String, u64)> {
        let newcomers = lock(&self.newcomers);
        let here = newcomers.loaded.iter().flat_map(|(file, object)| starts(file, object));
        newcomers.gone.iter().cloned().chain(here).collect()
    }
}

/// Objects that requests brought.
#[derive(Debug, Default)]
struct Newcomers {
    /// Those whose programs are in use. They are kept since their other arrays would empty.
    loaded: Vec<(PathBuf, Object)>,
    /// What the others counted.
    gone: Vec<(String, u64)>,
}

fn lock(newcomers: &Mutex<Newcomers>) -> MutexGuard<'_, Newcomers> {
    newcomers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What ran, of an object.
fn starts(file: &Path, object: &Object) -> Vec<(String, u64)> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let one = |program: &Program| Some((format!("{name}:{}", program.name()), program.hits().filter(|n| *n > 0)?));
    object.programs().iter().filter_map(one).collect()
}

/// What requests refer to.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    object: Object,
    options: Options,
    kernel: Kernel,
    newcomers: Arc<Mutex<Newcomers>>,
}

/// Serves requests at `path` in a thread of its own.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path, server: Server) -> Result<Control> {
    let cannot = || format!("cannot listen at {}", path.display());
    let (listener, socket) = bind(path).with_context(cannot)?;
    let newcomers = Arc::clone(&server.newcomers);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = server.serve(&stream) {
                // The client may be gone; the run goes on.
                let _ = writeln!(&stream, "error {error:#}");
            }
            server.forget_unused();
        }
    });
    Ok(Control { _socket: socket, newcomers })
}

/// A socket at `path` that accepts connections from its first moment on.
fn bind(path: &Path) -> Result<(UnixListener, Socket)> {
    let path = std::path::absolute(path)?;
    let name = path.file_name().context("it names no file")?.to_owned();
    let directory = Arc::new(Directory::named(path.parent().context("it names no file")?)?);
    remove_stale(&directory, &name)?;
    // Made under another name first: under its own it appears with its mode, and accepts.
    let draft = OsString::from(format!(".relpoline-{}.socket", std::process::id()));
    let listener = listen_in(&directory, &draft)?;
    let made = directory.look(&*draft)?;
    let draft = Socket { directory: Arc::clone(&directory), name: draft, made };
    rustix::fs::linkat(&directory, &*draft.name, &directory, &*name, AtFlags::empty())?;
    Ok((listener, Socket { directory, name, made }))
}

/// A path by way of a descriptor.
fn by(directory: &Directory, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).join(name)
}

/// A listening socket of mode 0600: nobody else can connect to it in between.
fn listen_in(directory: &Directory, name: &OsStr) -> Result<UnixListener> {
    // Before it has a name it is a file with a mode already.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(by(directory, name));
    rustix::process::umask(umask);
    Ok(listener?)
}

/// Removes what a run of this user's left behind that was killed.
fn remove_stale(directory: &Directory, name: &OsStr) -> Result<()> {
    let stat = match directory.look(name) {
        Ok(stat) => stat,
        Err(error) if open::is_missing(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    ensure!(is_socket && is_ours, "something is there that is no socket of this user's");
    let refused = UnixStream::connect(by(directory, name)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    ensure!(refused, "another run listens there");
    Ok(directory.remove(name, &stat)?)
}

impl Server {
    /// Of a run of `object`.
    #[must_use]
    pub fn new(runtime: Runtime, object: Object, options: Options) -> Self {
        Self { runtime, object, options, kernel: Kernel::default(), newcomers: Arc::default() }
    }

    /// With newcomers that are loaded as for `kernel`.
    #[must_use]
    pub fn of(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    fn serve(&self, stream: &UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let reply = self.answer(stream)?;
        Ok(writeln!(&*stream, "{reply}")?)
    }

    /// Does what a request asks for: the reply.
    ///
    /// # Errors
    /// When it makes no sense, or cannot be done: then nothing has changed.
    pub fn answer(&self, request: impl Read) -> Result<String> {
        let mut lines = BufReader::new(request.take(LONGEST)).lines();
        let array = lines.next().context("an empty request")??;
        let mut changes = Vec::new();
        for line in lines {
            changes.push(self.change(&line?)?);
        }
        let array = self.object.array(&array).with_context(|| format!("no program array '{array}'"))?;
        let begin = Instant::now();
        array.swap(changes.iter().map(|(index, program)| (*index, program.as_ref())))?;
        Ok(format!("ok {:.1} µs", begin.elapsed().as_nanos() as f64 / 1000.0))
    }

    /// Lets go of objects none of whose programs a run can come to any more.
    pub fn forget_unused(&self) {
        // Runs that began before the change still come through the old programs, and count.
        self.runtime.quiesce();
        let mut newcomers = lock(&self.newcomers);
        let mut unused = std::mem::take(&mut newcomers.loaded);
        let mut arrays = arrays(&self.object);
        // Arrays of objects in use lead to further ones.
        while let Some(at) = unused.iter().position(|(_, object)| is_used(object, &arrays)) {
            let (file, object) = unused.remove(at);
            arrays.extend(self::arrays(&object));
            newcomers.loaded.push((file, object));
        }
        newcomers.gone.extend(unused.iter().flat_map(|(file, object)| starts(file, object)));
    }

    fn change(&self, line: &str) -> Result<(u32, Option<Program>)> {
        let mut fields = line.split('\t');
        let index = fields.next().unwrap_or("").parse().context("a slot's number is expected")?;
        let program = match (fields.next(), fields.next()) {
            (Some(file), Some(name)) => Some(self.program(Path::new(file), name)?),
            _ => None,
        };
        Ok((index, program))
    }

    fn program(&self, file: &Path, name: &str) -> Result<Program> {
        let bytes = super::read(file, super::LARGEST_OBJECT)?;
        let around = self.kernel.around(self.object.maps());
        let object = Object::load_within(&self.runtime, &bytes, self.options, &around, |_| true)
            .with_context(|| file.display().to_string())?;
        let program = super::choose(&object, Some(name))?.clone();
        lock(&self.newcomers).loaded.push((file.into(), object));
        Ok(program)
    }
}

fn arrays(object: &Object) -> Vec<ProgArray> {
    let array = |map: &MapHandle| if let MapHandle::Array(array) = map { Some(array.clone()) } else { None };
    object.maps().iter().filter_map(|(_, map)| array(map)).collect()
}

fn is_used(object: &Object, arrays: &[ProgArray]) -> bool {
    object.programs().iter().any(|program| arrays.iter().any(|array| array.contains(program)))
}

/// Sends a request: the server's reply.
///
/// # Errors
/// When it cannot be reached, or says so.
pub fn request(path: &Path, text: &str) -> Result<String> {
    request_within(path, text, PATIENCE)
}

fn request_within(path: &Path, text: &str, longest: Duration) -> Result<String> {
    // Connecting waits for as long as whoever listens accepts nobody.
    let _patience = Patience::of(4 * PATIENCE);
    let deadline = Instant::now() + longest;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(std::io::Error::from(ErrorKind::TimedOut)) } else { Ok(Some(left)) }
    };
    let mut stream = UnixStream::connect(path).with_context(|| format!("no run listens at {}", path.display()))?;
    stream.set_write_timeout(left()?)?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let (mut reply, mut part) = (Vec::new(), [0; 4096]);
    while (reply.len() as u64) < LONGEST {
        // Somebody else's may answer a byte at a time.
        stream.set_read_timeout(left().context("it does not answer")?)?;
        match stream.read(&mut part).context("it does not answer")? {
            0 => break,
            count => reply.extend(&part[..count]),
        }
    }
    let reply = String::from_utf8_lossy(&reply);
    let reply = reply.trim_end();
    ensure!(reply.starts_with("ok"), "{}", reply.strip_prefix("error ").unwrap_or("the run ended"));
    Ok(reply.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn only_a_dead_socket_of_ones_own_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink("file", at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        for name in ["file", "fifo", "link", "directory"] {
            assert!(bind(&at(name)).is_err() && at(name).symlink_metadata().is_ok(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
        // Left by a run that was killed.
        drop(UnixListener::bind(at("dead")).unwrap());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(at("dead"), Some(12345), None).unwrap();
            assert!(bind(&at("dead")).is_err() && at("dead").exists(), "another user's");
            std::os::unix::fs::lchown(at("dead"), Some(0), None).unwrap();
        }
        let (listener, socket) = bind(&at("dead")).unwrap();
        assert_eq!(fs::metadata(at("dead")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&at("dead")).is_err(), "it is in use");
        drop((listener, socket));
        assert!(!at("dead").exists());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 4, "no draft is left");
    }

    #[test]
    fn nobody_is_waited_for_for_long() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let patience = Duration::from_millis(200);
        // One that says nothing, and one that goes on saying something.
        let silent = request_within(&path, "array", patience).unwrap_err();
        assert!(format!("{silent:#}").contains("does not answer"), "{silent:#}");
        std::thread::scope(|scope| {
            let talks = scope.spawn(|| {
                let (_silent, (mut stream, _)) = (listener.accept().unwrap(), listener.accept().unwrap());
                while stream.write_all(b"o").is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let endless = request_within(&path, "array", patience).unwrap_err();
            assert!(format!("{endless:#}").contains("does not answer"), "{endless:#}");
            talks.join().unwrap();
        });
    }

    #[test]
    fn what_came_in_its_place_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("socket");
        let (_listener, socket) = bind(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        fs::rename(&path, base.path().join("moved")).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(socket);
        assert!(path.exists() && fs::metadata(base.path().join("moved")).unwrap().ino() == inode);
    }
}
